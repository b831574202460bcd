//! Fair scheduling of requests, and limits for each caller on threads, queued requests, open files and memory. The
//! requests of one user never block the requests of another user or of the owner.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use criu_signals::images::Pid;
use nix::errno::Errno;

/// How many requests are answered at a time.
pub const THREADS: usize = 32;
/// How many of them may be requests of users other than the owner.
const OF_OTHERS: usize = 24;
/// How many of them may be requests of one uid that is not the owner's.
const OF_ONE: usize = 8;

/// A panic in another request is no reason for this one to fail.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The work of a request. Called when its turn comes, or at once with an error if the request is rejected.
type Work = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// A request that waits.
struct Job {
    /// A process can have only one tracer, so requests about the same process wait for each other.
    target: Option<Pid>,
    work: Work,
    /// Is held until the request is answered.
    _share: Share,
}

/// The waiting requests, and the uids and processes of the running requests.
#[derive(Default)]
struct State {
    waiting: BTreeMap<u32, VecDeque<Job>>,
    running: HashMap<u32, usize>,
    busy: HashSet<Pid>,
    /// The uid that was served last. The next uid is served next.
    last: u32,
}

impl State {
    /// The next request that can be answered now, from each uid in turn.
    fn next(&mut self, owner: u32) -> Option<(u32, Job)> {
        let others: usize = self
            .running
            .iter()
            .filter(|&(&uid, _)| uid != owner)
            .map(|(_, n)| n)
            .sum();
        let later = self.waiting.range(self.last.saturating_add(1)..);
        let uids: Vec<u32> = later
            .chain(self.waiting.range(..=self.last))
            .map(|(&uid, _)| uid)
            .collect();
        for uid in uids {
            let running = self.running.get(&uid).copied().unwrap_or_default();
            if uid != owner && (others >= OF_OTHERS || running >= OF_ONE) {
                continue;
            }
            let Some(jobs) = self.waiting.get_mut(&uid) else {
                continue;
            };
            let free = |job: &Job| job.target.is_none_or(|pid| !self.busy.contains(&pid));
            let Some(job) = jobs.iter().position(free).and_then(|at| jobs.remove(at)) else {
                continue;
            };
            if jobs.is_empty() {
                self.waiting.remove(&uid);
            }
            *self.running.entry(uid).or_default() += 1;
            self.busy.extend(job.target);
            self.last = uid;
            return Some((uid, job));
        }
        None
    }

    fn done(&mut self, uid: u32, target: Option<Pid>) {
        if let Some(running) = self.running.get_mut(&uid) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&uid);
            }
        }
        if let Some(pid) = target {
            self.busy.remove(&pid);
        }
    }
}

/// The requests, and the threads that process them.
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    owner: u32,
    requests: Arc<Shares>,
    bytes: Arc<Shares>,
}

impl Turns {
    /// Starts the threads.
    pub fn start(owner: u32) -> std::io::Result<Arc<Turns>> {
        let turns = Arc::new(Turns {
            state: Mutex::default(),
            changed: Condvar::new(),
            owner,
            requests: Shares::new(owner, Errno::EAGAIN, 256, 4096),
            bytes: Shares::new(owner, Errno::EAGAIN, 4 << 20, 64 << 20),
        });
        for number in 0..THREADS {
            let turns = Arc::clone(&turns);
            std::thread::Builder::new()
                .name(format!("answers-{number}"))
                .spawn(move || turns.work())?;
        }
        Ok(turns)
    }

    /// Queues `work` until it is the turn of `uid`. If too many requests of `uid`, or too many `bytes` of their texts,
    /// are waiting, `work` is called at once with an error.
    pub fn add(&self, uid: u32, target: Option<Pid>, bytes: usize, work: Work) {
        let share = self.requests.take(uid, 1).and_then(|mut share| {
            share.join(self.bytes.take(uid, bytes)?);
            Ok(share)
        });
        let share = match share {
            Ok(share) => share,
            Err(e) => return work(Err(e)),
        };
        let job = Job {
            target,
            work,
            _share: share,
        };
        lock(&self.state)
            .waiting
            .entry(uid)
            .or_default()
            .push_back(job);
        self.changed.notify_one();
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            let Some((uid, job)) = state.next(self.owner) else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let target = job.target;
            let work = std::panic::AssertUnwindSafe(move || (job.work)(Ok(())));
            // Its caller is told EIO when the reply is dropped.
            let _ = std::panic::catch_unwind(work);
            state = lock(&self.state);
            state.done(uid, target);
            // What could not be done before may be, also by those who are about to sleep.
            self.changed.notify_all();
        }
    }
}

/// How much of a resource each uid has taken.
pub struct Shares {
    taken: Mutex<HashMap<u32, usize>>,
    owner: u32,
    refusal: Errno,
    one: usize,
    others: usize,
}

impl Shares {
    /// One uid may take at most `one`, and all uids except the owner's together at most `others`. The owner may take
    /// `others` as well, which are counted separately. A request for more fails with `refusal`.
    pub fn new(owner: u32, refusal: Errno, one: usize, others: usize) -> Arc<Shares> {
        Arc::new(Shares {
            taken: Mutex::default(),
            owner,
            refusal,
            one,
            others,
        })
    }

    /// Takes some, until what is returned is dropped.
    pub fn take(self: &Arc<Shares>, uid: u32, amount: usize) -> Result<Share, Errno> {
        let mut taken = lock(&self.taken);
        let has = taken.get(&uid).copied().unwrap_or_default();
        let all: usize = taken
            .iter()
            .filter(|&(&uid, _)| uid != self.owner)
            .map(|(_, n)| n)
            .sum();
        let fits = if uid == self.owner {
            amount <= self.others.saturating_sub(has)
        } else {
            amount <= self.one.saturating_sub(has) && amount <= self.others.saturating_sub(all)
        };
        if !fits {
            return Err(self.refusal);
        }
        *taken.entry(uid).or_default() += amount;
        Ok(Share(vec![(Arc::clone(self), uid, amount)]))
    }
}

/// What somebody has taken.
#[derive(Default)]
pub struct Share(Vec<(Arc<Shares>, u32, usize)>);

impl Share {
    /// Both, as one.
    pub fn join(&mut self, mut other: Share) {
        self.0.append(&mut other.0);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for (shares, uid, amount) in self.0.drain(..) {
            let mut taken = lock(&shares.taken);
            if let Some(has) = taken.get_mut(&uid) {
                *has -= amount;
                if *has == 0 {
                    taken.remove(&uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(jobs: &[(u32, i32)]) -> State {
        let mut state = State::default();
        for &(uid, target) in jobs {
            state.waiting.entry(uid).or_default().push_back(Job {
                target: Pid::new(target),
                work: Box::new(|_| ()),
                _share: Share::default(),
            });
        }
        state
    }

    fn order(state: &mut State) -> Vec<(u32, i32)> {
        std::iter::from_fn(|| state.next(0))
            .map(|(uid, job)| (uid, job.target.map_or(0, Pid::get)))
            .collect()
    }

    #[test]
    fn in_turns() {
        let mut state = state(&[(7, 0), (7, 0), (7, 0), (0, 0), (8, 0)]);
        assert_eq!(order(&mut state), [(7, 0), (8, 0), (0, 0), (7, 0), (7, 0)]);
    }

    #[test]
    fn one_process_has_one_tracer() {
        let mut state = state(&[(7, 41), (7, 41), (7, 43), (0, 41)]);
        assert_eq!(order(&mut state), [(7, 41), (7, 43)]);
        // The other one first.
        state.done(7, Pid::new(41));
        assert_eq!(order(&mut state), [(0, 41)]);
        state.done(0, Pid::new(41));
        assert_eq!(order(&mut state), [(7, 41)]);
    }

    #[test]
    fn nobody_has_all_threads() {
        let jobs: Vec<_> = (1..=9).flat_map(|uid| [(uid, 0); 9]).collect();
        let mut state = state(&jobs);
        let first = order(&mut state);
        assert_eq!(first.len(), OF_OTHERS);
        let mut many = self::state(&[(7, 0); 20]);
        assert_eq!(order(&mut many).len(), OF_ONE);
        let mut owner = self::state(&[(0, 0); 20]);
        assert_eq!(order(&mut owner).len(), 20);
        // All that others may have is taken, and the owner is served.
        state.waiting.extend(self::state(&[(0, 0)]).waiting);
        assert_eq!(order(&mut state), [(0, 0)]);
    }

    #[test]
    fn shares() {
        let shares = Shares::new(0, Errno::EMFILE, 3, 5);
        let first = shares.take(7, 2).expect("2 of 3");
        assert_eq!(shares.take(7, 2).err(), Some(Errno::EMFILE));
        let second = shares.take(8, 3).expect("5 of 5");
        assert_eq!(shares.take(9, 1).err(), Some(Errno::EMFILE));
        let owner = shares.take(0, 5).expect("the owner's own");
        assert!(shares.take(0, 1).is_err());
        drop(first);
        shares.take(9, 2).expect("what was given back");
        drop((second, owner));
        assert!(lock(&shares.taken).is_empty());
    }
}
