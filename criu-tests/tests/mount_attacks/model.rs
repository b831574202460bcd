//! Two users and root access the files of three processes in random order; a model predicts who may see what.
//!
//! A failure prints the seed; `MOUNT_MODEL_SEED` repeats the run, `MOUNT_MODEL_STEPS` sets its length.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::text::SigFile;
use criu_tests::mounted::{Actor, Mounted, OTHER, Programs, USER};
use criu_tests::random::Random;
use criu_tests::six::{Way, mask};
use nix::errno::Errno;

use super::line;

/// Steps of a run, and runs.
const STEPS: usize = 300;
const SEEDS: [u64; 2] = [1, 2];

const UIDS: [u32; 3] = [0, USER, OTHER];
/// Descriptors of one actor.
const SLOTS: usize = 4;
const SIGNALS: [i32; 3] = [10, 12, 34];

/// A process whose files they are.
struct Target {
    actor: Actor,
    started_by: u32,
    /// Effective and saved uid.
    is_now: u32,
    /// One program after the other; another process is another one, too.
    program: u64,
    blocked: String,
}

/// What an open file is, whoever has a descriptor of it.
struct Open {
    opener: usize,
    target: usize,
    program: u64,
    /// The process is another one by now.
    process: u64,
    /// What was found at offset 0.
    text: Option<String>,
    how: &'static str,
}

struct World {
    mount: Mounted,
    programs: Programs,
    actors: Vec<Actor>,
    targets: Vec<Target>,
    /// Counts processes.
    processes: Vec<u64>,
    slots: HashMap<(usize, usize), Rc<RefCell<Open>>>,
    random: Random,
    programs_begun: u64,
}

/// By seeds.
pub fn model(programs: Programs, mount: Mounted) -> Result<()> {
    let steps = std::env::var("MOUNT_MODEL_STEPS").map_or(Ok(STEPS), |text| text.parse())?;
    let seeds = match std::env::var("MOUNT_MODEL_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) => SEEDS.to_vec(),
    };
    let mut world = World::new(programs, mount)?;
    for seed in seeds {
        world.random = Random(seed);
        for step in 0..steps {
            world
                .step()
                .with_context(|| format!("seed {seed}, step {step}"))?;
        }
    }
    Ok(())
}

impl World {
    fn new(programs: Programs, mount: Mounted) -> Result<World> {
        let actors = UIDS
            .iter()
            .map(|&uid| Actor::start(&programs.own, uid))
            .collect::<Result<_>>()?;
        let mut world = World {
            mount,
            programs,
            actors,
            targets: Vec::new(),
            processes: vec![0; UIDS.len()],
            slots: HashMap::new(),
            random: Random(1),
            programs_begun: 0,
        };
        for uid in UIDS {
            let target = world.begin(uid)?;
            world.targets.push(target);
        }
        Ok(world)
    }

    fn begin(&mut self, uid: u32) -> Result<Target> {
        let mut actor = Actor::start(&self.programs.own, uid)?;
        actor.does("block 10")?;
        self.programs_begun += 1;
        Ok(Target {
            actor,
            started_by: uid,
            is_now: uid,
            program: self.programs_begun,
            blocked: mask(&[10]),
        })
    }

    fn choose(&mut self, below: usize) -> usize {
        let most = Duration::from_micros(u64::try_from(below).unwrap_or(1));
        usize::try_from(self.random.below(most).as_micros()).unwrap_or_default()
    }

    /// ptrace(2)'s rule, for those that there are here.
    fn may(&self, actor: usize, target: usize) -> bool {
        let (uid, target) = (UIDS[actor], &self.targets[target]);
        uid == 0 || uid == target.started_by && uid == target.is_now
    }

    fn step(&mut self) -> Result<()> {
        let (actor, slot) = (self.choose(UIDS.len()), self.choose(SLOTS));
        match self.choose(23) {
            20 => self.truncate(actor),
            21 => self.cut(actor, slot),
            22 => self.touch(actor, slot),
            0..4 => self.open(actor, slot),
            4..8 => self.read(actor, slot, 0),
            8..11 => self.read(actor, slot, 7),
            11..15 => self.write(actor, slot),
            15 => self.close(actor, slot),
            16 => self.give(actor, slot),
            17 | 18 => self.execute(),
            _ => self.replace(),
        }
    }

    fn open(&mut self, actor: usize, slot: usize) -> Result<()> {
        let target = self.choose(UIDS.len());
        let how = ["r", "w", "rw"][self.choose(3)];
        let pid = self.targets[target].actor.pid()?;
        let path = self.mount.path(pid, SigFile::Blocked);
        let found = self.actors[actor].ask(&format!("open {slot} {how} {}", path.display()))?;
        let expected = if self.may(actor, target) {
            Ok(String::new())
        } else {
            Err(Errno::EACCES)
        };
        ensure!(
            found == expected,
            "{actor} opens {target}: {found:?}, expected {expected:?}"
        );
        if found.is_ok() {
            let open = Open {
                opener: actor,
                target,
                program: self.targets[target].program,
                process: self.processes[target],
                text: None,
                how,
            };
            self.slots
                .insert((actor, slot), Rc::new(RefCell::new(open)));
        }
        Ok(())
    }

    /// What is answered to whoever uses a descriptor before it is looked what for.
    fn verdict(&self, actor: usize, open: &Open) -> Option<Errno> {
        let target = &self.targets[open.target];
        if open.opener != actor {
            Some(Errno::EACCES)
        } else if open.process != self.processes[open.target] {
            Some(Errno::ESRCH)
        } else if !self.may(actor, open.target) {
            Some(Errno::EACCES)
        } else if open.program != target.program {
            Some(Errno::ESRCH)
        } else {
            None
        }
    }

    fn read(&mut self, actor: usize, slot: usize, offset: usize) -> Result<()> {
        let Some(open) = self.slots.get(&(actor, slot)).cloned() else {
            return Ok(());
        };
        let found = self.actors[actor].ask(&format!("read {slot} {offset}"))?;
        let mut open = open.borrow_mut();
        let expected = if !open.how.contains('r') {
            Err(Errno::EBADF)
        } else if let Some(e) = self.verdict(actor, &open) {
            Err(e)
        } else {
            if offset == 0 || open.text.is_none() {
                open.text = Some(line(&self.targets[open.target].blocked));
            }
            Ok(open.text.clone().unwrap_or_default()[offset..].to_owned())
        };
        ensure!(
            found == expected,
            "{actor} reads {} at {offset}, opened by {}: {found:?}, expected {expected:?}",
            open.target,
            open.opener
        );
        Ok(())
    }

    fn write(&mut self, actor: usize, slot: usize) -> Result<()> {
        let Some(open) = self.slots.get(&(actor, slot)).cloned() else {
            return Ok(());
        };
        let chosen = self.choose(1 << SIGNALS.len());
        let signals: Vec<i32> = (0..SIGNALS.len())
            .filter(|bit| chosen >> bit & 1 == 1)
            .map(|bit| SIGNALS[bit])
            .collect();
        let wanted = mask(&signals);
        let (text, is_whole) = match self.choose(4) {
            0 => (wanted.trim()[..30].to_owned(), false),
            1 => (line(&wanted), true),
            _ => (wanted.trim().to_owned(), true),
        };
        let found = self.actors[actor].ask(&format!("write {slot} {text}"))?;
        let open = open.borrow();
        let expected = if !open.how.contains('w') {
            Err(Errno::EBADF)
        } else if let Some(e) = self.verdict(actor, &open) {
            Err(e)
        } else if !is_whole {
            Err(Errno::EINVAL)
        } else {
            self.targets[open.target].blocked = wanted;
            Ok(text.len().to_string())
        };
        ensure!(
            found == expected,
            "{actor} writes {}, opened by {}: {found:?}, expected {expected:?}",
            open.target,
            open.opener
        );
        self.is_as_it_should_be(open.target)
    }

    /// Changes nothing, and is for those who may write.
    fn truncate(&mut self, actor: usize) -> Result<()> {
        let (target, size) = (self.choose(UIDS.len()), self.choose(2));
        let pid = self.targets[target].actor.pid()?;
        let path = self.mount.path(pid, SigFile::Blocked);
        let found = self.actors[actor].ask(&format!("truncate {} {size}", path.display()))?;
        let expected = match size {
            0 if self.may(actor, target) => Ok(String::new()),
            0 => Err(Errno::EACCES),
            _ => Err(Errno::EPERM),
        };
        ensure!(
            found == expected,
            "{actor} truncates {target} to {size}: {found:?}, expected {expected:?}"
        );
        self.is_as_it_should_be(target)
    }

    /// The same of an open file.
    fn cut(&mut self, actor: usize, slot: usize) -> Result<()> {
        let Some(open) = self.slots.get(&(actor, slot)).cloned() else {
            return Ok(());
        };
        let found = self.actors[actor].ask(&format!("cut {slot}"))?;
        let open = open.borrow();
        let expected = if !open.how.contains('w') {
            Err(Errno::EINVAL)
        } else {
            self.verdict(actor, &open).map_or(Ok(String::new()), Err)
        };
        ensure!(
            found == expected,
            "{actor} cuts {}, opened by {}: {found:?}, expected {expected:?}",
            open.target,
            open.opener
        );
        self.is_as_it_should_be(open.target)
    }

    /// Nobody can, by path or by descriptor.
    fn touch(&mut self, actor: usize, slot: usize) -> Result<()> {
        let target = self.choose(UIDS.len());
        let pid = self.targets[target].actor.pid()?;
        let path = self.mount.path(pid, SigFile::Blocked);
        self.actors[actor].fails(&format!("touch {}", path.display()), Errno::EPERM)?;
        if self.slots.contains_key(&(actor, slot)) {
            self.actors[actor].fails(&format!("date {slot}"), Errno::EPERM)?;
        }
        Ok(())
    }

    fn close(&mut self, actor: usize, slot: usize) -> Result<()> {
        if self.slots.remove(&(actor, slot)).is_some() {
            self.actors[actor].does(&format!("sync {slot}"))?;
            self.actors[actor].does(&format!("close {slot}"))?;
        }
        (0..UIDS.len()).try_for_each(|target| self.is_as_it_should_be(target))
    }

    fn give(&mut self, actor: usize, slot: usize) -> Result<()> {
        let to = (actor + 1 + self.choose(UIDS.len() - 1)) % UIDS.len();
        let Some(open) = self.slots.get(&(actor, slot)).cloned() else {
            return Ok(());
        };
        let at = self.programs.place("socket");
        let (low, high) = self.actors.split_at_mut(actor.max(to));
        let (from, into) = if actor < to {
            (&mut low[actor], &mut high[0])
        } else {
            (&mut high[0], &mut low[to])
        };
        from.give(i32::try_from(slot)?, into, &at)?;
        self.slots.insert((to, slot), open);
        Ok(())
    }

    fn execute(&mut self) -> Result<()> {
        let target = self.choose(UIDS.len());
        let (program, owner) = match self.choose(3) {
            0 => (self.programs.own.clone(), None),
            1 => (self.programs.of_root.clone(), Some(0)),
            _ => (self.programs.of_other.clone(), Some(OTHER)),
        };
        self.programs_begun += 1;
        let found = &mut self.targets[target];
        found.actor.becomes(&program)?;
        found.is_now = owner.unwrap_or(found.is_now);
        found.program = self.programs_begun;
        self.is_as_it_should_be(target)
    }

    fn replace(&mut self) -> Result<()> {
        let target = self.choose(UIDS.len());
        let next = self.begin(UIDS[target])?;
        self.targets[target] = next;
        self.processes[target] += 1;
        Ok(())
    }

    fn is_as_it_should_be(&self, target: usize) -> Result<()> {
        let target = &self.targets[target];
        let pid = target.actor.pid()?;
        let found = Way::Library.read(pid, pid, SigFile::Blocked)?;
        ensure!(
            found == target.blocked,
            "blocked is {found}, not {}",
            target.blocked
        );
        Ok(())
    }
}
