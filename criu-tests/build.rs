//! Compiles the victims (`victims/*.c`, each with `victim.c`) and the second plugin into `OUT_DIR`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=victims");
    println!("cargo::rerun-if-changed=plugins");
    println!("cargo::rerun-if-changed=procsig2007");
    println!("cargo::rerun-if-changed=chance");

    let mut programs: Vec<PathBuf> = fs::read_dir("victims")
        .expect("victims/ is there")
        .map(|entry| entry.expect("victims/ can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "c") && !path.ends_with("victim.c"))
        .collect();
    programs.sort();

    build_victims(&programs, &out.join("victims"), &[]).unwrap_or_else(|why| panic!("{why}"));
    // 32-bit victims are for 64-bit x86 only, and need gcc-multilib: scenarios that want them say when they are not there.
    let ia32 = out.join("victims-ia32");
    let has_ia32 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64")
        && build_victims(&programs, &ia32, &["-m32"]).is_ok();
    if !has_ia32 {
        let _ = fs::remove_dir_all(&ia32);
    }

    build_chance(&out.join("chance"), &[]).unwrap_or_else(|why| panic!("{why}"));
    let chance_ia32 = out.join("chance-ia32");
    if !has_ia32 || build_chance(&chance_ia32, &["-m32"]).is_err() {
        let _ = fs::remove_dir_all(&chance_ia32);
    }

    let plugin = out.join("other_plugin.so");
    run(compiler()
        .args(["-shared", "-fPIC", "-o"])
        .arg(&plugin)
        .arg("plugins/other_plugin.c"))
    .unwrap_or_else(|why| panic!("{why}"));

    // Plugins find functions and variables of criu by name.
    run(compiler()
        .args(["-rdynamic", "-o"])
        .arg(out.join("old_criu"))
        .arg("plugins/old_criu.c"))
    .unwrap_or_else(|why| panic!("{why}"));

    // As they stand in the text of the patches, whatever is to be warned of.
    let of_2007 = out.join("procsig2007");
    fs::create_dir_all(&of_2007).expect("OUT_DIR can be written");
    for name in ["forker", "handlertest"] {
        run(compiler()
            .arg("-w")
            // The address of a handler, and of what it returns to, must be the same in two processes.
            .arg("-static")
            .arg("-o")
            // The script looks for "forked".
            .arg(of_2007.join(name.replace("forker", "forked")))
            .arg(format!("procsig2007/{name}.c")))
        .unwrap_or_else(|why| panic!("{why}"));
    }

    println!("cargo::rustc-env=CRIU_TESTS_BUILT={}", out.display());
}

/// Static programs: criu then has fewer mappings and files to look at, and a dump is short.
fn build_victims(programs: &[PathBuf], into: &Path, flags: &[&str]) -> Result<(), String> {
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let common = into.join("victim.o");
    run(compiler()
        .args(flags)
        .args(["-c", "-o"])
        .arg(&common)
        .arg("victims/victim.c"))?;
    for source in programs {
        let name = source.file_stem().expect("a .c file has a stem");
        run(compiler()
            .args(flags)
            .args(["-static", "-o"])
            .arg(into.join(name))
            .args([source.as_path(), common.as_path()]))?;
    }
    Ok(())
}

/// The program of random states: all of `chance/*.c`.
fn build_chance(into: &Path, flags: &[&str]) -> Result<(), String> {
    fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    let mut sources: Vec<PathBuf> = fs::read_dir("chance")
        .map_err(|e| format!("chance/: {e}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "c"))
        .collect();
    sources.sort();
    run(compiler()
        .args(flags)
        .args(["-static", "-o"])
        .arg(into.join("chance"))
        .args(&sources))
}

/// The compiler without the flags that cc gives for Rust libraries, which make no program.
fn compiler() -> Command {
    let compiler = cc::Build::new().get_compiler();
    let mut command = Command::new(compiler.path());
    command.args(["-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-pthread"]);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(format!("{command:?}: {}\n{said}", done.status));
    }
    for line in said.lines().filter(|line| line.contains("warning:")) {
        println!("cargo::warning={line}");
    }
    Ok(())
}
