//! Checks the layers of ARCHITECTURE.md against the `use` lines and paths of the sources: a folder uses only layers
//! below, and files of a crate do not use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The folders and files of `src/`, from the bottom. What is in a row uses rows above it only, and itself. The crate `images`
/// is below all of them, and cargo sees to that.
const LAYERS: [&[&str]; 15] = [
    &["criu", "error", "setting_names", "plugin_file"],
    &["fault", "memory", "in_time"],
    &["arch", "proc"],
    &["process", "machine", "symbols"],
    &["tracee"],
    &["state"],
    &["engine", "image_folder"],
    &["archive", "reading", "signal_files"],
    &["core_file"],
    &["bpf"],
    &["log_lines", "run_report"],
    &["losses"],
    &["checkpoint", "live", "proc_sig"],
    &["cli"],
    &["fuzzing"],
];

/// A module of a crate: `["state", "queues"]`.
type Module = Vec<String>;

/// The modules of a crate, and what each of them uses.
struct Crate {
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

/// What stands in one file.
#[derive(Default)]
struct Source {
    /// Paths as they are written, without what an `use` renames them to.
    paths: Vec<Vec<String>>,
    /// `pub use`: the name, and where it comes from.
    exports: Vec<(String, Vec<String>)>,
}

impl Source {
    fn tree(&mut self, before: &[String], tree: &syn::UseTree, exports: bool) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree, exports),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(before, tree, exports);
                }
            }
            syn::UseTree::Name(name) => self.found(with(&name.ident), None, exports),
            syn::UseTree::Rename(name) => {
                self.found(with(&name.ident), Some(name.rename.to_string()), exports);
            }
            syn::UseTree::Glob(_) => self.found(before.to_vec(), None, exports),
        }
    }

    fn found(&mut self, mut path: Vec<String>, name: Option<String>, exports: bool) {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        match (exports, name.or_else(|| path.last().cloned())) {
            (true, Some(name)) => self.exports.push((name, path)),
            _ => self.paths.push(path),
        }
    }
}

/// Without what is quoted, which may be documentation.
fn without_texts(tokens: &str) -> String {
    let mut rest = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for letter in tokens.chars() {
        match (quoted, letter) {
            (false, '"') => quoted = true,
            (false, letter) => rest.push(letter),
            (true, '"') if !escaped => quoted = false,
            _ => {}
        }
        escaped = quoted && letter == '\\' && !escaped;
    }
    rest
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exports = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&[], &item.tree, exports);
    }

    /// `pub(super)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let path_text = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.paths.push(path_text);
        visit::visit_path(self, path);
    }

    /// What stands in macros is words only.
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let text = without_texts(&item.tokens.to_string()).replace(' ', "");
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let paths = text
            .split(|c| !is_path(c))
            .filter(|word| word.contains("::"));
        self.paths
            .extend(paths.map(|path| path.split("::").map(str::to_owned).collect()));
        visit::visit_macro(self, item);
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
    all
}

fn module_of(root: &Path, file: &Path) -> Module {
    let inside = file.strip_prefix(root).expect("below the root");
    let mut module: Module = inside
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

impl Crate {
    fn read(root: &Path) -> Crate {
        let mut files: BTreeMap<Module, Source> = BTreeMap::new();
        for file in sources(root) {
            let module = module_of(root, &file);
            // The root of a crate names everything in it.
            if matches!(module.as_slice(), [only] if only == "lib" || only == "main") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("readable");
            let parsed = syn::parse_file(&text).expect("Rust");
            let mut source = Source::default();
            source.visit_file(&parsed);
            files.insert(module, source);
        }
        let uses = files.iter().map(|(module, source)| {
            let used = source
                .paths
                .iter()
                .filter_map(|path| resolve(&files, module, path, 0))
                .filter(|used| used != module);
            (module.clone(), used.collect())
        });
        Crate {
            uses: uses.collect(),
        }
    }

    /// A path from `from` back to it, if there is one.
    fn circle(&self, from: &Module) -> Option<Vec<Module>> {
        let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut next = vec![from];
        while let Some(at) = next.pop() {
            for used in &self.uses[at] {
                if used == from {
                    let mut way = vec![from.clone(), at.clone()];
                    let mut at = at;
                    while let Some(&earlier) = before.get(at) {
                        way.push(earlier.clone());
                        at = earlier;
                    }
                    way.reverse();
                    return Some(way);
                }
                if !before.contains_key(used) {
                    before.insert(used, at);
                    next.push(used);
                }
            }
        }
        None
    }
}

/// The file that a path leads to from `module`, through what other files export.
fn resolve(
    files: &BTreeMap<Module, Source>,
    module: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let (start, rest): (Module, &[String]) = match path.first().map(String::as_str) {
        Some("crate") => (Vec::new(), &path[1..]),
        Some("self") => (module.clone(), &path[1..]),
        Some("super") => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let up = module.len().checked_sub(ups)?;
            (module[..up].to_vec(), &path[ups..])
        }
        // A child of this module, or the name of another crate.
        Some(first) => {
            let child = [module.as_slice(), &[first.to_owned()]].concat();
            if !files.contains_key(&child) {
                return None;
            }
            (module.clone(), path)
        }
        None => return None,
    };
    let whole = [start, rest.to_vec()].concat();
    let known = (1..=whole.len())
        .rev()
        .find(|&n| files.contains_key(&whole[..n]))?;
    let (found, name) = (whole[..known].to_vec(), whole.get(known));
    let export = name.and_then(|name| {
        let exports = &files[&found].exports;
        exports.iter().find(|(exported, _)| exported == name)
    });
    match export {
        Some((_, target)) if depth < 4 => resolve(files, &found, target, depth + 1).or(Some(found)),
        _ => Some(found),
    }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn arrows_between_folders_point_down() {
    let layer = |folder: &str| {
        let layer = LAYERS.iter().position(|row| row.contains(&folder));
        layer.unwrap_or_else(|| {
            panic!("src/{folder} is in no layer: say in which, here and in ARCHITECTURE.md")
        })
    };
    let all = Crate::read(&project().join("src")).uses;
    assert!(all.len() > 100, "the sources were found");
    let state: Module = vec!["state".into(), "queues".into()];
    assert!(
        all[&state].iter().any(|used| used[0] == "tracee"),
        "what is known to be used is found"
    );
    for (module, used) in all {
        for used in used {
            let (from, to) = (&module[0], &used[0]);
            assert!(
                from == to || layer(from) > layer(to),
                "{} uses {}, and src/{to} is no layer below src/{from}",
                module.join("::"),
                used.join("::")
            );
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src", "images/src", "plugin/src"] {
        let all = Crate::read(&project().join(root));
        for module in all.uses.keys() {
            if let Some(way) = all.circle(module) {
                let way: Vec<String> = way.iter().map(|module| module.join("::")).collect();
                panic!("{root}: {}", way.join(" uses "));
            }
        }
    }
}

/// ARCHITECTURE.md lists the layers, too.
#[test]
fn the_map_names_every_folder() {
    let map = fs::read_to_string(project().join("ARCHITECTURE.md")).expect("it is there");
    for name in LAYERS.concat() {
        let folder = project().join("src").join(name);
        let wanted = if folder.is_dir() {
            format!("`{name}/`")
        } else {
            format!("`{name}.rs`")
        };
        assert!(
            map.contains(&wanted),
            "ARCHITECTURE.md does not name {wanted}"
        );
    }
}
