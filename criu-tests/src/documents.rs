//! The documents of the project: each link leads somewhere, README or a document that it names leads to each document, and
//! each is a chapter of the book (`make book`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Where links begin.
const FIRST: &str = "README.md";

/// The chapters of the book.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Folders without documents of the project's own.
const OTHERS: [&str; 3] = ["target", ".git", "artifacts"];

/// The documents below `folder`, as paths from `root`, with their texts.
fn read(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if !OTHERS.iter().any(|other| entry.file_name() == *other) {
                read(root, &path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(root.join(&path))
                .with_context(|| format!("read {}", path.display()))?;
            found.insert(path, text);
        }
    }
    Ok(())
}

/// Without blocks of code.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let mark = line.trim_start().starts_with("```");
        code ^= mark;
        !code && !mark
    })
}

/// Targets of links in it. What is between backquotes is no link.
fn links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    for line in lines(text) {
        for part in line.split('`').step_by(2) {
            let targets = part.split("](").skip(1);
            links.extend(targets.filter_map(|rest| rest.split_once(')').map(|(link, _)| link)));
        }
    }
    links
}

/// As the anchor of a heading is made from it.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    lines(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// `link` in a document of the folder `from`.
fn resolved(from: &Path, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in from.join(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

/// Whether people look for this document in the book: all in `docs/` and in the root.
fn is_chapter(path: &Path) -> bool {
    let root = path.parent() == Some(Path::new(""));
    (path.starts_with("docs") || root) && path != Path::new(SUMMARY)
}

#[test]
fn each_document_is_one_chapter_of_the_book() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = BTreeMap::new();
    read(&root, Path::new(""), &mut documents)?;
    let summary = documents.get(Path::new(SUMMARY)).context(SUMMARY)?;
    let chapters: Vec<PathBuf> = links(summary)
        .into_iter()
        .map(|link| resolved(Path::new("docs"), link))
        .collect();
    let once: BTreeSet<&PathBuf> = chapters.iter().collect();
    ensure!(once.len() == chapters.len(), "{SUMMARY}: one twice");
    let missing = documents
        .keys()
        .filter(|path| is_chapter(path) && !once.contains(path));
    let missing: Vec<_> = missing.collect();
    ensure!(missing.is_empty(), "{SUMMARY}: no chapter {missing:?}");
    // What a chapter leads to is a chapter: in the book there is nothing else.
    for chapter in &chapters {
        let text = documents.get(chapter).context("a chapter is no document")?;
        let folder = chapter.parent().unwrap_or(Path::new(""));
        for link in links(text) {
            let file = link.split('#').next().unwrap_or_default();
            let to = resolved(folder, file);
            ensure!(
                !documents.contains_key(&to) || once.contains(&to),
                "{}: {link} is in no chapter of {SUMMARY}",
                chapter.display()
            );
        }
    }
    Ok(())
}

#[test]
fn links_lead_somewhere_and_to_every_document() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = BTreeMap::new();
    read(&root, Path::new(""), &mut documents)?;
    let mut wrong = Vec::new();
    let mut led_to: BTreeMap<&Path, Vec<PathBuf>> = BTreeMap::new();
    for (path, text) in &documents {
        let folder = path.parent().unwrap_or(Path::new(""));
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let file = match file {
                "" => path.clone(),
                file => resolved(folder, file),
            };
            let has_anchor = |text: &String| anchor.is_empty() || anchors(text).contains(anchor);
            if !root.join(&file).exists() || !documents.get(&file).is_none_or(has_anchor) {
                wrong.push(format!("{}: {link}", path.display()));
            }
            led_to.entry(path).or_default().push(file);
        }
    }
    ensure!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
    let mut reached = BTreeSet::from([PathBuf::from(FIRST)]);
    let mut next = vec![PathBuf::from(FIRST)];
    while let Some(path) = next.pop() {
        for file in led_to.get(&*path).into_iter().flatten() {
            if reached.insert(file.clone()) {
                next.push(file.clone());
            }
        }
    }
    let lost = documents
        .keys()
        .filter(|path| is_chapter(path) && !reached.contains(*path));
    let lost: Vec<_> = lost.collect();
    ensure!(lost.is_empty(), "no link leads to {lost:?}");
    Ok(())
}

#[test]
fn what_is_a_link() {
    let text =
        "# A `b`, c\n[x](y.md) `[no](z.md)` [`code`](w.md#a-b-c)\n```\n[no](v.md)\n# no\n```\n";
    assert_eq!(links(text), ["y.md", "w.md#a-b-c"]);
    assert_eq!(anchors(text), BTreeSet::from(["a-b-c".to_owned()]));
    assert_eq!(
        resolved(Path::new("docs"), "../src/./a.rs"),
        Path::new("src/a.rs")
    );
}
