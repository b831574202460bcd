//! An ELF core file, of which notes and headers are read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| criu_signals::fuzzing::core_file(data));
