//! The smallest plan that still fails, found by trying: lines are left out, in halves, quarters and so on down to single
//! ones, then whole threads and children, then what is left is made simpler.

use crate::chance::plan::{Action, Disposition, Entry, Line, Notify, Plan, Queue};

/// What is asked of a plan: whether it still fails. Each question may cost seconds.
pub type Fails<'f> = dyn FnMut(&Plan) -> bool + 'f;

/// Reduces a plan that fails. It asks no more than `questions` times.
pub fn minimise(plan: &Plan, questions: u32, fails: &mut Fails<'_>) -> Plan {
    let mut search = Search {
        best: plan.clone(),
        left: questions,
        fails,
    };
    loop {
        let before = search.best.clone();
        search.leave_out();
        search.whole_things();
        search.simplify();
        if search.best == before || search.left == 0 {
            return search.best;
        }
    }
}

struct Search<'f, 'p> {
    best: Plan,
    left: u32,
    fails: &'f mut Fails<'p>,
}

impl Search<'_, '_> {
    /// Whether that fails too: then it is the best so far.
    fn try_it(&mut self, plan: Plan) -> bool {
        if self.left == 0 || plan == self.best || !is_consistent(&plan) {
            return false;
        }
        self.left -= 1;
        let fails = (self.fails)(&plan);
        if fails {
            self.best = plan;
        }
        fails
    }

    /// Pieces of lines, smaller and smaller.
    fn leave_out(&mut self) {
        let mut size = self.best.lines.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < self.best.lines.len() {
                let mut plan = self.best.clone();
                let end = (at + size).min(plan.lines.len());
                let out: Vec<Line> = plan.lines.drain(at..end).collect();
                without_dangling(&mut plan, &out);
                if !self.try_it(plan) {
                    at += size;
                }
            }
            if size == 1 || self.left == 0 {
                return;
            }
            size = size.div_ceil(2);
        }
    }

    /// Everything that names a thread, or a child.
    fn whole_things(&mut self) {
        for thread in (1..16).rev() {
            let mut plan = self.best.clone();
            plan.lines.retain(|line| !names_thread(line, thread));
            self.try_it(plan);
            // Or the leader does it.
            let mut plan = self.best.clone();
            for line in &mut plan.lines {
                rename_thread(line, thread, 0);
            }
            plan.lines.retain(|line| *line != Line::Thread(0));
            self.try_it(plan);
        }
        for child in (0..16).rev() {
            let mut plan = self.best.clone();
            plan.lines.retain(|line| child_of(line) != Some(child));
            self.try_it(plan);
        }
    }

    fn simplify(&mut self) {
        let mut at = 0;
        while at < self.best.lines.len() {
            // As long as one of them fails too, it may be simpler still.
            while self.left > 0 {
                let mut simpler = simpler(&self.best.lines[at]).into_iter();
                let found = simpler.any(|line| {
                    let mut plan = self.best.clone();
                    plan.lines[at] = line;
                    self.try_it(plan)
                });
                if !found {
                    break;
                }
            }
            at += 1;
        }
    }
}

/// Takes away what speaks of a timer that is no longer made.
fn without_dangling(plan: &mut Plan, out: &[Line]) {
    for line in out {
        match line {
            Line::Timer(timer) => plan.lines.retain(|line| timer_of(line) != Some(timer.id)),
            Line::Child(child, ..) => plan.lines.retain(|line| child_of(line) != Some(*child)),
            _ => {}
        }
    }
}

/// No timer is waited for that is not there.
fn is_consistent(plan: &Plan) -> bool {
    let mut made = Vec::new();
    plan.lines.iter().all(|line| match line {
        Line::Timer(timer) => {
            made.push(timer.id);
            true
        }
        line => timer_of(line).is_none_or(|id| made.contains(&id)),
    })
}

fn timer_of(line: &Line) -> Option<u8> {
    match line {
        Line::TimerSet(id, ..) | Line::TimerWait(id) | Line::TimerDelete(id) => Some(*id),
        _ => None,
    }
}

fn child_of(line: &Line) -> Option<u8> {
    match line {
        Line::Child(child, ..)
        | Line::ChildAct(child, ..)
        | Line::ChildMask(child, _)
        | Line::ChildQueue(child, ..)
        | Line::ChildSend(child, _) => Some(*child),
        _ => None,
    }
}

fn names_thread(line: &Line, thread: u8) -> bool {
    let mut other = line.clone();
    rename_thread(&mut other, thread, thread.wrapping_add(100));
    other != *line
}

fn rename_thread(line: &mut Line, from: u8, to: u8) {
    let change = |thread: &mut u8| {
        if *thread == from {
            *thread = to;
        }
    };
    match line {
        Line::Thread(thread)
        | Line::Mask(thread, _)
        | Line::Inside(thread, _)
        | Line::Vfork(thread)
        | Line::Seccomp(Some(thread), _)
        | Line::Altstack(thread, _)
        | Line::Burn(thread, _)
        | Line::Due(Queue::Private(thread), _)
        | Line::Queue(Queue::Private(thread), _)
        | Line::Bit(Queue::Private(thread), _) => change(thread),
        Line::Wait(wait) => change(&mut wait.thread),
        Line::Timer(timer) => {
            change(&mut timer.by);
            if let Notify::Thread(thread) = &mut timer.notify {
                change(thread);
            }
            if let crate::chance::plan::TimerClock::CpuOf(thread) = &mut timer.clock {
                change(thread);
            }
        }
        _ => {}
    }
}

/// What is simpler than a line, the simplest first. None of them leads back.
fn simpler(line: &Line) -> Vec<Line> {
    let mut found = Vec::new();
    match line {
        Line::Queue(queue, entry) => {
            found.extend(simpler_entry(entry).map(|entry| Line::Queue(*queue, entry)));
        }
        Line::ChildQueue(child, queue, entry) => {
            found.extend(simpler_entry(entry).map(|e| Line::ChildQueue(*child, *queue, e)));
        }
        Line::Act(signal, to) => {
            found.extend(simpler_disposition(to).map(|to| Line::Act(*signal, to)));
        }
        Line::ChildAct(child, signal, to) => {
            found.extend(simpler_disposition(to).map(|to| Line::ChildAct(*child, *signal, to)));
        }
        Line::Mask(thread, mask) if *mask != 0 && *mask != u64::MAX => {
            found.extend([u64::MAX, 0].map(|mask| Line::Mask(*thread, mask)));
        }
        Line::Wait(wait) => {
            let mut without = wait.clone();
            without.mask = None;
            without.rem = false;
            if without != *wait {
                found.push(Line::Wait(without));
            }
        }
        Line::Timer(timer) => {
            let changes: [&dyn Fn(&mut crate::chance::plan::Timer); 3] = [
                &|timer| timer.interval = 0,
                &|timer| timer.value = 0,
                &|timer| timer.notify = Notify::Signal,
            ];
            for change in changes {
                let mut other = timer.clone();
                change(&mut other);
                if other != *timer {
                    found.push(Line::Timer(other));
                }
            }
        }
        _ => {}
    }
    found
}

fn simpler_entry(entry: &Entry) -> impl Iterator<Item = Entry> {
    let mut found = Vec::new();
    let counts = [
        1,
        entry.count / 2,
        entry.count - entry.count / 8,
        entry.count - 1,
    ];
    for count in counts {
        if count > 0 && count < entry.count {
            found.push(Entry {
                count,
                ..entry.clone()
            });
        }
    }
    if !entry.raw.is_empty() {
        found.push(Entry {
            raw: Vec::new(),
            ..entry.clone()
        });
    }
    if entry.errno != 0 {
        found.push(Entry {
            errno: 0,
            ..entry.clone()
        });
    }
    if ![-1, 0].contains(&entry.code) {
        found.push(Entry {
            code: -1,
            ..entry.clone()
        });
    }
    found.into_iter()
}

fn simpler_disposition(to: &Disposition) -> impl Iterator<Item = Disposition> {
    let mut found = Vec::new();
    if to.flags != 0 {
        found.push(Disposition { flags: 0, ..*to });
    }
    if to.mask != 0 {
        found.push(Disposition { mask: 0, ..*to });
    }
    if matches!(to.action, Action::Address(_)) {
        found.push(Disposition {
            action: Action::Handler,
            ..*to
        });
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::generate::{self, Focus};

    #[test]
    fn two_lines_that_matter_are_what_is_left() {
        let mut failing = 0;
        for seed in 0..300 {
            let plan = generate::plan(seed, Focus::None);
            let mut asked = 0;
            let mut fails = |plan: &Plan| {
                asked += 1;
                let timer = plan
                    .lines
                    .iter()
                    .any(|line| matches!(line, Line::TimerWait(_)));
                let queued = plan
                    .lines
                    .iter()
                    .any(|line| matches!(line, Line::Queue(_, entry) if entry.count > 1));
                timer && queued
            };
            if !fails(&plan) {
                continue;
            }
            failing += 1;
            let small = minimise(&plan, 1000, &mut fails);
            assert!(fails(&small));
            assert_eq!(small.lines.len(), 3, "{small}");
            assert!(
                small.lines.iter().any(|line| matches!(line,
                    Line::Queue(_, entry) if entry.count == 2 && entry.raw.is_empty())),
                "{small}"
            );
            assert!(asked < 1000);
        }
        assert!(failing > 10);
    }

    #[test]
    fn it_stops_asking() {
        let plan = generate::plan(3, Focus::None);
        let mut asked = 0;
        minimise(&plan, 5, &mut |_| {
            asked += 1;
            true
        });
        assert!(asked <= 5);
    }

    #[test]
    fn what_fails_by_itself_becomes_nothing() {
        let plan = generate::plan(7, Focus::None);
        assert_eq!(minimise(&plan, 1000, &mut |_| true), Plan::default());
    }
}
