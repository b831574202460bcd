//! `criu-signals diff`: two processes, two images, or one of each, field by field.

use std::io::{self, Write};
use std::process::ExitCode;

use criu_signals::images::{
    Aspect, Comparison, Difference, Field, Place, Printable, ProcessState, compare_all,
};
use serde_json::{Value, json};

use super::context::{Context, DIFFERS, FAILED, Failure};
use super::show::pids;
use super::source::{self, Extent, Found, Loaded, Means, Unreadable};
use super::style::{BOLD, DIM, NAME, WARN};

/// Compares the signal state of two processes, of two images or folders of images, or of a process and its image.
///
/// Everything that both sources record is compared, except pids, namespaces, the number of siginfos that a user has
/// queued, and the remaining times of timers and calls. Of an interval timer, the interval and whether the timer is armed
/// are compared. SIGIO owners of files are compared if both sources record some. What is not recorded by both is listed as
/// not compared. Processes of two folders are matched by the pid in their innermost pid namespace. Threads are matched by
/// their tid in that namespace, or by their order if the two are not the same process.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\n{EXAMPLES}\n\n{EXIT_CODES}", source::SOURCES))]
pub struct Diff {
    /// First source.
    #[arg(value_name = "A")]
    a: String,
    /// Second source.
    #[arg(value_name = "B")]
    b: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    means: Means,
}

const EXAMPLES: &str = "\
Examples:
  criu-signals diff images/signals-4711.img 4711
  criu-signals diff before/ after/
  criu-signals diff images/ criu:images/          # what CRIU's own images do not hold
  criu-signals diff --json 4711 4712 | jq '.processes[].differences'";

const EXIT_CODES: &str = "\
Exit codes:
  0  no difference
  1  at least one difference
  2  a source, or an image of a folder or archive, could not be read; the others were compared";

/// Two processes, or one that the other side lacks.
enum Pair<'f> {
    Both(&'f Found, &'f Found, Comparison),
    OnlyA(&'f Found),
    OnlyB(&'f Found),
}

impl Diff {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        context.work_in_child()?;
        let a = source::load(&self.a, context, Extent::Whole, self.means)?;
        let b = source::load(&self.b, context, Extent::Whole, self.means)?;
        let pairs = pairs(&a, &b);
        let unreadable: Vec<&Unreadable> = a.unreadable.iter().chain(&b.unreadable).collect();
        for Unreadable { why, .. } in &unreadable {
            super::context::say(&**why);
        }
        let same = pairs.iter().all(|pair| match pair {
            Pair::Both(_, _, comparison) => comparison.differences.is_empty(),
            Pair::OnlyA(_) | Pair::OnlyB(_) => false,
        });
        let mut out = context.stdout();
        if self.json {
            let processes: Vec<Value> = pairs.iter().map(document).collect();
            let mut document = json!({"same": same, "processes": processes});
            if !unreadable.is_empty() {
                // Whether all is the same is not known then.
                document["same"] = if same { Value::Null } else { json!(false) };
                let whys = unreadable.iter().map(|of| of.why.to_string());
                document["not_read"] = whys.collect();
            }
            writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
        } else {
            for (n, pair) in pairs.iter().enumerate() {
                if n > 0 {
                    writeln!(out)?;
                }
                text(&mut out, pair)?;
            }
        }
        Ok(match (unreadable.is_empty(), same) {
            (false, _) => ExitCode::from(FAILED),
            (true, false) => ExitCode::from(DIFFERS),
            (true, true) => ExitCode::SUCCESS,
        })
    }
}

/// A process whose images on the other side could not be read has no pair: it is not known whether it differs.
fn pairs<'f>(a: &'f Loaded, b: &'f Loaded) -> Vec<Pair<'f>> {
    let both = |a: &'f Found, b: &'f Found| Pair::Both(a, b, compare_all(&a.recorded, &b.recorded));
    // One process on each side: the caller knows that they are two processes.
    let all_read = a.unreadable.is_empty() && b.unreadable.is_empty();
    if let ([a], [b]) = (&*a.found, &*b.found)
        && all_read
    {
        return vec![both(a, b)];
    }
    let in_a = a.found.iter().filter_map(|a| match partner(a, &b.found) {
        Some(b) => Some(both(a, b)),
        None => (!is_unreadable(a, b)).then_some(Pair::OnlyA(a)),
    });
    let only_b = b
        .found
        .iter()
        .filter(|b| partner(b, &a.found).is_none() && !is_unreadable(b, a));
    in_a.chain(only_b.map(Pair::OnlyB)).collect()
}

fn is_unreadable(found: &Found, other_side: &Loaded) -> bool {
    let pid = own_pid(found);
    other_side.unreadable.iter().any(|of| of.pid == pid)
}

fn partner<'f>(one: &Found, others: &'f [Found]) -> Option<&'f Found> {
    others.iter().find(|other| own_pid(other) == own_pid(one))
}

fn process(found: &Found) -> &ProcessState {
    &found.recorded.image.process
}

fn own_pid(found: &Found) -> i32 {
    process(found).ids.innermost()
}

fn text(out: &mut impl Write, pair: &Pair<'_>) -> io::Result<()> {
    match pair {
        Pair::OnlyA(a) => {
            head(out, "A", a)?;
            writeln!(out, "{WARN}B has no such process{WARN:#}")
        }
        Pair::OnlyB(b) => {
            head(out, "B", b)?;
            writeln!(out, "{WARN}A has no such process{WARN:#}")
        }
        Pair::Both(a, b, comparison) => {
            head(out, "A", a)?;
            head(out, "B", b)?;
            for note in notes(a, b) {
                writeln!(out, "{DIM}note{DIM:#}  {note}")?;
            }
            for difference in &comparison.differences {
                let [in_a, in_b] = difference.named(a.known_names(), b.known_names());
                writeln!(
                    out,
                    "{NAME}{} {}{NAME:#}\n  {DIM}A{DIM:#}  {}\n  {DIM}B{DIM:#}  {}",
                    difference.place,
                    difference.field,
                    Printable::from(&in_a),
                    Printable::from(&in_b)
                )?;
            }
            match comparison.differences.len() {
                0 => writeln!(out, "no differences")?,
                1 => writeln!(out, "1 difference")?,
                n => writeln!(out, "{n} differences")?,
            }
            for (who, aspects) in recorded_by(comparison) {
                if !aspects.is_empty() {
                    let aspects: Vec<String> = aspects.iter().map(ToString::to_string).collect();
                    let list = aspects.join(", ");
                    writeln!(
                        out,
                        "{DIM}not compared, because {who} records it: {list}{DIM:#}"
                    )?;
                }
            }
            Ok(())
        }
    }
}

/// What was not compared, by which of the two sources records it.
fn recorded_by(comparison: &Comparison) -> [(&'static str, Vec<Aspect>); 3] {
    let lacks = |side: usize, aspect: &Aspect| comparison.lacks[side].contains(aspect);
    let those = |a: bool, b: bool| {
        let all = comparison.not_compared.iter();
        all.filter(|aspect| lacks(0, aspect) != a && lacks(1, aspect) != b)
            .copied()
            .collect()
    };
    [
        ("only A", those(true, false)),
        ("only B", those(false, true)),
        ("neither", those(false, false)),
    ]
}

fn head(out: &mut impl Write, side: &str, found: &Found) -> io::Result<()> {
    let process = process(found);
    writeln!(
        out,
        "{DIM}{side}{DIM:#}  {BOLD}{}{BOLD:#} ({}), pid {}",
        Printable::from(&found.name),
        process.comm,
        pids(process, found.origin)
    )
}

/// What a reader has to know to understand the differences.
fn notes(a: &Found, b: &Found) -> Vec<String> {
    let mut notes = Vec::new();
    let (pa, pb) = (process(a), process(b));
    if own_pid(a) != own_pid(b) {
        notes.push(
            "these are different processes: threads are matched by their order and shown with the ids of A"
                .to_owned(),
        );
    }
    if pa.pid_ns != 0 && pb.pid_ns != 0 && pa.pid_ns != pb.pid_ns {
        notes.push(format!(
            "the processes are in different pid namespaces, pid:[{}] and pid:[{}]: equal pids, including sender pids, \
             need not mean the same process",
            pa.pid_ns, pb.pid_ns
        ));
    }
    for (found, process) in [(a, pa), (b, pb)] {
        if let Some(ended_by) = &found.recorded.ended_by {
            let signo = ended_by.signo;
            notes.push(format!("the core {} was written for {signo}", found.name));
        }
        if !process.taken_out.is_empty() {
            notes.push(format!(
                "pending signals were taken out for the dump, so CRIU's images do not hold them: {}",
                found.name
            ));
        }
    }
    notes
}

fn document(pair: &Pair<'_>) -> Value {
    match pair {
        Pair::OnlyA(a) => json!({"a": side(a), "b": null}),
        Pair::OnlyB(b) => json!({"a": null, "b": side(b)}),
        Pair::Both(a, b, comparison) => {
            let differences: Vec<Value> = comparison
                .differences
                .iter()
                .map(|found| difference(found, a, b))
                .collect();
            let names = |aspects: &[Aspect]| -> Vec<&str> {
                aspects.iter().map(|aspect| aspect.name()).collect()
            };
            let [only_a, only_b, _] = recorded_by(comparison).map(|(_, aspects)| names(&aspects));
            json!({
                "a": side(a),
                "b": side(b),
                "differences": differences,
                "not_compared": names(&comparison.not_compared),
                "only_a_records": only_a,
                "only_b_records": only_b,
            })
        }
    }
}

fn side(found: &Found) -> Value {
    let process = process(found);
    json!({
        "source": found.name,
        "kind": found.origin.to_string(),
        "ids": process.ids.as_slice(),
        "pid_ns": match process.pid_ns {
            0 => Value::Null,
            inode => json!(inode.to_string()),
        },
        "comm": process.comm.as_str(),
    })
}

fn difference(difference: &Difference, a: &Found, b: &Found) -> Value {
    let mut value = json!({
        "thread": match difference.place {
            Place::Process => Value::Null,
            Place::Thread(tid) => json!(tid),
        },
        "field": difference.field.name(),
        "a": difference.dumped,
        "b": difference.found,
    });
    if difference.dispositions.is_some()
        && let Some(object) = value.as_object_mut()
    {
        let [in_a, in_b] = difference.named(a.known_names(), b.known_names());
        object.insert("a_named".to_owned(), json!(in_a));
        object.insert("b_named".to_owned(), json!(in_b));
    }
    let number = match difference.field {
        Field::Disposition(signo) => Some(("signal", json!(signo.to_string()))),
        Field::Timer(id) => Some(("timer", json!(id))),
        Field::TimerFd(fd) => Some(("fd", json!(fd))),
        _ => None,
    };
    if let (Some((name, number)), Some(object)) = (number, value.as_object_mut()) {
        object.insert(name.to_owned(), number);
    }
    value
}
