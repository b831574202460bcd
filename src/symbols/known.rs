//! A cache for the names of addresses in running processes.

use std::collections::HashMap;

use criu_signals_images::{CodePlace, Pid};
use procfs::process::MemoryMap;

use super::of_process;
use crate::error::{Cause, Error, Result};
use crate::in_time;
use crate::proc;

/// So many processes are known, and so many addresses of each. All are forgotten when there are more.
const MOST: usize = 256;
/// So many names are looked up between two renewals: each may take some milliseconds, and a program has 64 handlers at most.
const MOST_AT_ONCE: usize = 64;

/// What is known of processes. A name is used again as long as the process executes the same program and has the same mapping at
/// the address, which is looked at once after each [`renew`](Known::renew).
#[derive(Debug, Default)]
pub struct Known {
    programs: HashMap<Pid, Program>,
    /// How many names were looked up since the last renewal.
    looked_up: usize,
}

#[derive(Debug, Default)]
struct Program {
    /// The auxiliary vector, by which a program is known.
    vector: Vec<u8>,
    places: HashMap<u64, (MemoryMap, CodePlace)>,
    checked: bool,
    /// Why the process could not be looked at since the last renewal: a file that does not answer is not waited for again.
    failed: Option<String>,
}

impl Known {
    /// From now on what is known may be out of date.
    pub fn renew(&mut self) {
        self.looked_up = 0;
        for program in self.programs.values_mut() {
            program.checked = false;
            program.failed = None;
        }
    }

    /// What is at the address now, or why that is not known.
    ///
    /// # Errors
    /// If the process has ended, or could not be looked at.
    pub fn place(&mut self, pid: Pid, address: u64) -> std::result::Result<CodePlace, String> {
        if self.programs.len() >= MOST && !self.programs.contains_key(&pid) {
            self.programs.clear();
        }
        let program = self.programs.entry(pid).or_default();
        if let Some(why) = &program.failed {
            return Err(why.clone());
        }
        if !program.places.contains_key(&address) {
            if self.looked_up >= MOST_AT_ONCE {
                return Err("too many names at a time".to_owned());
            }
            self.looked_up += 1;
        }
        program.place(pid, address).map_err(|e| {
            let why = match e.is_died() {
                true => "the process has ended".to_owned(),
                false => e.to_string(),
            };
            *program = Program {
                failed: Some(why.clone()),
                ..Program::default()
            };
            why
        })
    }
}

impl Program {
    fn place(&mut self, pid: Pid, address: u64) -> Result<CodePlace> {
        if !self.checked {
            self.check(pid)?;
        }
        if let Some((_, place)) = self.places.get(&address) {
            return Ok(place.clone());
        }
        let map = maps(pid, vec![address])?.into_iter().next();
        let mut places = of_process(pid, &[address])?.into_iter();
        // The mappings of a process that has ended are gone before the process is.
        let missing = || Error::new("read maps", Cause::Died);
        let place = places.next().ok_or_else(missing)?;
        if vector(pid)? != self.vector {
            let why = "the process has executed another program meanwhile";
            return Err(Error::new("read maps", Cause::Unsupported(why.into())));
        }
        if self.places.len() >= MOST {
            self.places.clear();
        }
        if let Some(map) = map {
            self.places.insert(address, (map, place.clone()));
        }
        Ok(place)
    }

    /// Keeps what is still so.
    fn check(&mut self, pid: Pid) -> Result<()> {
        let vector = vector(pid)?;
        if vector != self.vector {
            self.places.clear();
            self.vector = vector;
        }
        if !self.places.is_empty() {
            let maps = maps(pid, self.places.keys().copied().collect())?;
            self.places.retain(|_, (map, _)| maps.contains(map));
        }
        self.checked = true;
        Ok(())
    }
}

/// Empty of a process that has no memory any more.
fn vector(pid: Pid) -> Result<Vec<u8>> {
    let vector = proc::auxiliary_vector(pid)?;
    if vector.is_empty() {
        return Err(Error::new("read auxv", Cause::Died));
    }
    Ok(vector)
}

fn maps(pid: Pid, addresses: Vec<u64>) -> Result<Vec<MemoryMap>> {
    in_time::look("maps", move || proc::maps_holding(pid, &addresses))?
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    fn pid(child: &Child) -> Pid {
        Pid::new(child.id().cast_signed()).unwrap()
    }

    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        // The kernel lets the parent go on before the new program has its auxiliary vector (fs/exec.c, exec_mmap).
        let begun = Instant::now();
        while find_entry(pid(&child)).is_none() && begun.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(1));
        }
        child
    }

    fn entry(pid: Pid) -> u64 {
        find_entry(pid).unwrap()
    }

    /// AT_ENTRY of the auxiliary vector.
    fn find_entry(pid: Pid) -> Option<u64> {
        let vector = proc::auxiliary_vector(pid).unwrap();
        let words: Vec<u64> = vector
            .chunks_exact(8)
            .map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap()))
            .collect();
        let mut pairs = words.chunks_exact(2);
        pairs
            .find(|pair| pair[0] == libc::AT_ENTRY)
            .map(|pair| pair[1])
    }

    #[test]
    fn a_process_that_ends() {
        let mut child = sleeper();
        let pid = pid(&child);
        let address = entry(pid);
        let mut known = Known::default();
        let place = known.place(pid, address).unwrap();
        assert!(place.to_string().contains("sleep+0x"), "{place}");
        known.renew();
        assert_eq!(known.place(pid, address).unwrap(), place);
        assert_eq!(known.programs[&pid].places.len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        // Until it is looked at again.
        assert_eq!(known.place(pid, address).unwrap(), place);
        known.renew();
        for _ in 0..2 {
            assert_eq!(
                known.place(pid, address).unwrap_err(),
                "the process has ended"
            );
        }
    }

    #[test]
    fn so_many_at_a_time() {
        let own = Pid::own();
        let mut known = Known::default();
        for address in 0..MOST_AT_ONCE {
            known.place(own, address as u64).unwrap();
        }
        let why = known.place(own, entry(own)).unwrap_err();
        assert_eq!(why, "too many names at a time");
        known.renew();
        known.place(own, entry(own)).unwrap();
    }

    #[test]
    fn what_is_out_of_date_is_forgotten() {
        let mut child = sleeper();
        let pid = pid(&child);
        let address = entry(pid);
        let mut known = Known::default();
        let place = known.place(pid, address).unwrap();
        // As after an execve(2), and as after a dlclose(3) and a dlopen(3).
        for other in [true, false] {
            known.renew();
            let program = known.programs.get_mut(&pid).unwrap();
            let (map, kept) = program.places.get_mut(&address).unwrap();
            kept.address = 0;
            match other {
                true => program.vector.push(0),
                false => map.inode += 1,
            }
            assert_eq!(known.place(pid, address).unwrap(), place);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
