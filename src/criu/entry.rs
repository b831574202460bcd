//! The C functions that CRIU calls, one set for each plugin type. They call the methods of [`Plugin`].
//!
//! Public only for [`export_plugin!`](crate::export_plugin), and not part of the module's interface.

// The arguments are C pointers and descriptor numbers.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::fmt;
use std::mem;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::copies;
use super::descriptor::{Descriptor, HOOKS};
use super::hook::{AfterFailure, Hook, HookError, HookResult, IntoCode, Reply, code};
use super::host::{Host, LogLevel};
use super::logger;
use super::plugin::{Plugin, Stage};

/// A plugin with a place for its one instance. Only the macro implements it.
pub trait Exported: Plugin {
    /// The same place at every call.
    fn slot() -> &'static Slot<Self>;

    /// What CRIU knows this copy of the plugin by.
    fn descriptor() -> &'static Descriptor;
}

/// Holds the plugin from `init` to `exit`. The library may be unloaded after `exit`, or stay for another `init`.
#[derive(Debug)]
pub struct Slot<P> {
    plugin: Mutex<Option<P>>,
    /// Another copy of the plugin does the work.
    idle: AtomicBool,
}

impl<P> Slot<P> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Slot {
            plugin: Mutex::new(None),
            idle: AtomicBool::new(false),
        }
    }

    /// Nobody else holds the lock: CRIU calls from one thread, and no method of [`Host`] leads back into a hook. Should
    /// it be held all the same, say in a process forked by another thread, waiting would be for ever.
    fn lock(&self) -> Option<MutexGuard<'_, Option<P>>> {
        match self.plugin.try_lock() {
            Ok(guard) => Some(guard),
            // Panics are caught while the lock is held; a poisoned lock still holds the plugin.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// What CRIU gets for a panic, and for everything else that is wrong with this side of the interface.
const FAILED: c_int = -1;

thread_local! {
    /// Whether this thread is inside [`contain`]. Without a destructor: one would keep the library from being unloaded.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Where the last contained panic happened: only the panic hook is told, only [`contain`] can report it.
static PANIC_PLACE: Mutex<Option<String>> = Mutex::new(None);

/// The default hook prints to stderr, which in criu is nobody's or the user's terminal. A contained panic goes to the
/// log instead. The hook is this library's own, not CRIU's: a cdylib has its own copy of std.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CONTAINED.get() {
                let place = info.location().map(ToString::to_string);
                *PANIC_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
            } else {
                previous(info);
            }
        }));
    });
}

/// Runs `body`. A panic becomes an error record and `None`.
///
/// Each hook runs in it as a whole. It is for a plugin whose `exit` has several things to give back, of which each is to
/// have its turn.
pub fn contain<T>(what: &dyn fmt::Display, body: impl FnOnce() -> T) -> Option<T> {
    let outer = CONTAINED.replace(true);
    // AssertUnwindSafe: `body` can leave the plugin itself half changed, which is its own to bear (see `Plugin`).
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    CONTAINED.set(outer);
    let payload = match result {
        Ok(value) => return Some(value),
        Err(payload) => payload,
    };
    let place = PANIC_PLACE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let place = place.as_deref().unwrap_or("an unknown place");
    log::error!(
        "{what} panicked at {place}: {}",
        panic_message(payload.as_ref())
    );
    // The payload can be of any type, one whose destructor panics too.
    mem::forget(payload);
    None
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<&'static str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(message), _) => message,
        (_, Some(message)) => message,
        _ => "(not a message)",
    }
}

/// `init` of the descriptor.
pub extern "C" fn init<P: Exported>(stage: c_int) -> c_int {
    contain(&"init", || {
        let host = Host::find();
        logger::install(host, P::LOG_PREFIX);
        install_panic_hook();
        init_as::<P>(stage, host)
    })
    .unwrap_or(FAILED)
}

fn init_as<P: Exported>(stage: c_int, host: Host) -> c_int {
    let Some(known) = Stage::from_c(stage) else {
        log::error!("init: this criu has a stage {stage}, which the plugin does not know");
        return FAILED;
    };
    let Some(mut slot) = P::slot().lock() else {
        log::error!("init: called from inside a hook");
        return FAILED;
    };
    if slot.is_some() {
        // CRIU leaves `exit` out after a pre-dump, and one process can serve several requests.
        log::debug!("init: the previous run did not call exit");
        contain(&"dropping the state of the previous run", || *slot = None);
    }
    let idle = is_second_copy::<P>();
    P::slot().idle.store(idle, Ordering::Relaxed);
    if idle {
        return 0;
    }
    match P::init(known, host) {
        Ok(plugin) => {
            *slot = Some(plugin);
            0
        }
        Err(error) => {
            log::error!("init for {known}: {error}");
            error.code()
        }
    }
}

/// Is the work being done by another copy of this plugin, which criu has loaded before this one? Says so.
///
/// criu calls `init` as soon as it has loaded a library, and loads the next one after that. So what is there at this
/// time, and is not this library, came before.
fn is_second_copy<P: Exported>() -> bool {
    let copies = copies::loaded(P::NAME, P::descriptor());
    let path = |wanted| copies.iter().find(|(_, own)| *own == wanted);
    let Some((first, _)) = path(false) else {
        return false;
    };
    let shown = |path: &Path| logger::escape(&path.to_string_lossy());
    let this = path(true).map_or("this file".into(), |(this, _)| shown(this));
    log::error!(
        "criu's plugin folder holds two copies of this plugin: {} works, and {this} does nothing; remove one of them",
        shown(first)
    );
    true
}

/// `exit` of the descriptor.
pub extern "C" fn exit<P: Exported>(stage: c_int, ret: c_int) {
    contain(&"exit", || {
        let Some(plugin) = P::slot().lock().and_then(|mut slot| slot.take()) else {
            log::debug!("exit: there was no init");
            return;
        };
        match Stage::from_c(stage) {
            Some(stage) => plugin.exit(stage, ret),
            None => {
                log::error!("exit: this criu has a stage {stage}, which the plugin does not know")
            }
        }
    });
}

/// A hook with its arguments, for the log: `CHECKPOINT_DEVICES(1234)`.
struct Call<A>(Hook, A);

impl<A: fmt::Debug> fmt::Display for Call<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.0, self.1)
    }
}

/// Calls one method of the instance. What fails is logged, and comes back as CRIU's number for it.
fn call<P: Exported, T>(
    what: &dyn fmt::Display,
    method: impl FnOnce(&mut P) -> HookResult<T>,
) -> Result<Reply<T>, c_int> {
    let Some(mut slot) = P::slot().lock() else {
        log::error!("{what}: called from inside another hook");
        return Err(FAILED);
    };
    if P::slot().idle.load(Ordering::Relaxed) {
        return Ok(Reply::PassOn);
    }
    let Some(plugin) = slot.as_mut() else {
        log::error!("{what}: there was no init");
        return Err(FAILED);
    };
    match contain(what, || method(plugin)) {
        None => Err(FAILED),
        Some(Ok(reply)) => Ok(reply),
        Some(Err(error)) => {
            log::error!("{what}: {error}");
            Err(error.code())
        }
    }
}

/// [`call`], for the hooks whose result is the number alone.
fn run<P: Exported, T: IntoCode>(
    what: &dyn fmt::Display,
    method: impl FnOnce(&mut P) -> HookResult<T>,
) -> c_int {
    call::<P, T>(what, method).map_or_else(|failed| failed, |reply| code(Ok(reply)))
}

/// # Safety
///
/// If `fd` is not negative, it is open for all of `'a`.
unsafe fn borrow_fd<'a>(fd: c_int) -> Result<BorrowedFd<'a>, HookError> {
    if fd < 0 {
        return Err(HookError::new(Errno::EBADF, "criu passed no descriptor"));
    }
    // SAFETY: by the caller, and it is not -1.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// # Safety
///
/// If `text` is not null, it is a C string that nobody writes during `'a`.
unsafe fn borrow_str<'a>(text: *const c_char) -> Result<&'a CStr, HookError> {
    if text.is_null() {
        return Err(HookError::new(Errno::EFAULT, "criu passed no string"));
    }
    // SAFETY: by the caller, and it is not null.
    Ok(unsafe { CStr::from_ptr(text) })
}

fn as_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Hook 0.
///
/// # Safety
///
/// Called by CRIU: `fd` is open during the call.
pub unsafe extern "C" fn dump_unix_sk<P: Exported>(fd: c_int, inode: c_int) -> c_int {
    let inode = inode.cast_unsigned();
    // SAFETY: by the caller.
    let fd = unsafe { borrow_fd(fd) };
    run::<P, _>(&Call(Hook::DumpUnixSk, inode), |plugin| {
        plugin.dump_unix_sk(fd?, inode)
    })
}

/// Hook 1.
pub extern "C" fn restore_unix_sk<P: Exported>(inode: c_int) -> c_int {
    let inode = inode.cast_unsigned();
    run::<P, _>(&Call(Hook::RestoreUnixSk, inode), |plugin| {
        plugin.restore_unix_sk(inode)
    })
}

/// Hook 2.
///
/// # Safety
///
/// Called by CRIU: `fd` is open during the call.
pub unsafe extern "C" fn dump_ext_file<P: Exported>(fd: c_int, id: c_int) -> c_int {
    let id = id.cast_unsigned();
    // SAFETY: by the caller.
    let fd = unsafe { borrow_fd(fd) };
    run::<P, _>(&Call(Hook::DumpExtFile, id), |plugin| {
        plugin.dump_ext_file(fd?, id)
    })
}

/// Hook 3.
///
/// CRIU 4.3 passes a second argument, through which it is to be told whether the file needs another call, and whose
/// target it may not have set itself. Up to 4.2 there is none, and what lies in its register is nobody's pointer.
/// The criu that has the argument is known by its number of hooks.
///
/// # Safety
///
/// Called by CRIU: if it has 14 hooks or more, `retry_needed` is null or may be written.
pub unsafe extern "C" fn restore_ext_file<P: Exported>(
    id: c_int,
    retry_needed: *mut bool,
) -> c_int {
    /// RESTORE_INIT, the first hook that was added after the argument.
    const HOOKS_WITH_RETRY: usize = 14;

    let id = id.cast_unsigned();
    let code = run::<P, _>(&Call(Hook::RestoreExtFile, id), |plugin| {
        plugin.restore_ext_file(id)
    });
    if Host::find()
        .hook_count()
        .is_some_and(|hooks| hooks >= HOOKS_WITH_RETRY)
        && !retry_needed.is_null()
    {
        // SAFETY: by the caller.
        unsafe { retry_needed.write(false) };
    }
    code
}

/// Hook 4.
///
/// # Safety
///
/// Called by CRIU: `mountpoint` is a C string.
pub unsafe extern "C" fn dump_ext_mount<P: Exported>(
    mountpoint: *mut c_char,
    mount_id: c_int,
) -> c_int {
    // SAFETY: by the caller; CRIU waits for this call.
    let mountpoint = unsafe { borrow_str(mountpoint) };
    run::<P, _>(&Call(Hook::DumpExtMount, mount_id), |plugin| {
        plugin.dump_ext_mount(as_path(mountpoint?), mount_id)
    })
}

/// Hook 5.
///
/// # Safety
///
/// Called by CRIU: `mountpoint` and `old_root` are C strings, and `is_file` is null or may be written.
pub unsafe extern "C" fn restore_ext_mount<P: Exported>(
    mount_id: c_int,
    mountpoint: *mut c_char,
    old_root: *mut c_char,
    is_file: *mut c_int,
) -> c_int {
    // SAFETY: by the caller; CRIU waits for this call.
    let (mountpoint, old_root, is_file) = unsafe {
        (
            borrow_str(mountpoint),
            borrow_str(old_root),
            is_file.as_mut(),
        )
    };
    run::<P, _>(&Call(Hook::RestoreExtMount, mount_id), |plugin| {
        plugin.restore_ext_mount(mount_id, as_path(mountpoint?), as_path(old_root?), is_file)
    })
}

/// Hook 6.
///
/// # Safety
///
/// Called by CRIU: `kind` is a C string.
pub unsafe extern "C" fn dump_ext_link<P: Exported>(
    index: c_int,
    link_type: c_int,
    kind: *mut c_char,
) -> c_int {
    // SAFETY: by the caller; CRIU waits for this call.
    let kind = unsafe { borrow_str(kind) };
    run::<P, _>(&Call(Hook::DumpExtLink, index), |plugin| {
        plugin.dump_ext_link(index, link_type, kind?)
    })
}

/// Hook 7.
///
/// # Safety
///
/// Called by CRIU: `fd` is open during the call, and `stat` is null or points to what fstat gave.
pub unsafe extern "C" fn handle_device_vma<P: Exported>(
    fd: c_int,
    stat: *const libc::stat,
) -> c_int {
    // SAFETY: by the caller; CRIU waits for this call.
    let (fd, stat) = unsafe { (borrow_fd(fd), stat.as_ref()) };
    run::<P, _>(&Call(Hook::HandleDeviceVma, ()), |plugin| {
        plugin.handle_device_vma(
            fd?,
            stat.ok_or_else(|| HookError::new(Errno::EFAULT, "criu passed no stat"))?,
        )
    })
}

/// Hook 8. CRIU takes the values over only where the result is 1.
///
/// # Safety
///
/// Called by CRIU: `path` is a C string, and both out pointers are null or may be written.
pub unsafe extern "C" fn update_vma_map<P: Exported>(
    path: *const c_char,
    address: u64,
    old_pgoff: u64,
    new_pgoff: *mut u64,
    plugin_fd: *mut c_int,
) -> c_int {
    // SAFETY: by the caller; CRIU waits for this call.
    let (path, new_pgoff, plugin_fd) =
        unsafe { (borrow_str(path), new_pgoff.as_mut(), plugin_fd.as_mut()) };
    let reply = call::<P, _>(&Call(Hook::UpdateVmaMap, address), |plugin| {
        plugin.update_vma_map(as_path(path?), address, old_pgoff)
    });
    match (reply, new_pgoff, plugin_fd) {
        (Ok(Reply::Handled(map)), Some(new_pgoff), Some(plugin_fd)) => {
            *new_pgoff = map.pgoff;
            if let Some(fd) = map.fd {
                *plugin_fd = fd.into_raw_fd();
            }
            1
        }
        (Ok(Reply::Handled(_)), _, _) => FAILED,
        (Ok(Reply::PassOn), _, _) => code::<()>(Ok(Reply::PassOn)),
        (Err(failed), _, _) => failed,
    }
}

/// The task that a hook is called for. `None`, and nothing is to be done, where the number names no process: to kill(2) and
/// its like 0 and below mean many. CRIU may call a hook once more with -1 when it has called it for each task (pull request
/// 3105).
fn task(what: &dyn fmt::Display, pid: c_int) -> Option<Pid> {
    static SAID: AtomicBool = AtomicBool::new(false);
    if pid > 0 {
        return Some(Pid::from_raw(pid));
    }
    if !SAID.swap(true, Ordering::Relaxed) {
        log::debug!("{what}: not a process: passed on");
    }
    None
}

/// [`run`], for the hooks that are called for a task.
fn run_for<P: Exported>(
    hook: Hook,
    pid: c_int,
    method: impl FnOnce(&mut P, Pid) -> HookResult,
) -> c_int {
    let what = Call(hook, pid);
    match task(&what, pid) {
        Some(pid) => run::<P, _>(&what, |plugin| method(plugin, pid)),
        None => code::<()>(Ok(Reply::PassOn)),
    }
}

/// Hook 9.
pub extern "C" fn resume_devices_late<P: Exported>(pid: c_int) -> c_int {
    let what = Call(Hook::ResumeDevicesLate, pid);
    let Some(pid) = task(&what, pid) else {
        return code::<()>(Ok(Reply::PassOn));
    };
    match call::<P, ()>(&what, |plugin| plugin.resume_devices_late(pid)) {
        Ok(reply) => code(Ok(reply)),
        Err(failed) => {
            let after = call::<P, _>(&what, |plugin| {
                Ok(Reply::Handled(plugin.resume_failed(pid)))
            });
            match after {
                Ok(Reply::Handled(AfterFailure::GoOn)) => code::<()>(Ok(Reply::PassOn)),
                _ => failed,
            }
        }
    }
}

/// Hook 10.
pub extern "C" fn pause_devices<P: Exported>(pid: c_int) -> c_int {
    run_for::<P>(Hook::PauseDevices, pid, P::pause_devices)
}

/// Hook 11.
pub extern "C" fn checkpoint_devices<P: Exported>(pid: c_int) -> c_int {
    run_for::<P>(Hook::CheckpointDevices, pid, P::checkpoint_devices)
}

/// Runs when the library is loaded, before anybody looks at the descriptor: the only chance to tell the user of a CRIU
/// older than 4.0 why it calls the plugin corrupted. Says nothing anywhere else.
pub extern "C" fn on_load<P: Plugin>() {
    contain(&"loading", || {
        let host = Host::find();
        if let Some(text) = host.hook_count().and_then(|hooks| too_old(P::NAME, hooks)) {
            // Without a log there is nobody to tell.
            let _ = host.print_on_level(LogLevel::Error, &text);
        }
    });
}

fn too_old(name: &CStr, hooks: usize) -> Option<CString> {
    if hooks >= HOOKS {
        return None;
    }
    let name = name.to_string_lossy();
    let text = format!(
        "Error ({name}): this criu knows {hooks} plugin hooks; CRIU 4.0 or newer is needed\n"
    );
    CString::new(text).ok()
}

/// Makes the `cdylib` crate that it stands in a CRIU plugin: `export_plugin!(MyPlugin, [checkpoint_devices])`.
///
/// The first argument is a type that implements [`Plugin`](crate::criu::Plugin), the second the list of the hooks that
/// CRIU is to call, by the names of the methods. A hook that is not on the list is never called.
///
/// The macro exports `CR_PLUGIN_DESC`, so it can stand in a crate only once. It works under `deny(unsafe_code)`, not
/// under `forbid`.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty, [$($hook:ident),* $(,)?] $(,)?) => {
        const _: () = {
            #[cfg(panic = "abort")]
            ::core::compile_error!("a CRIU plugin needs panic = \"unwind\": a panic would take criu down mid-way");

            impl $crate::criu::entry::Exported for $plugin {
                fn slot() -> &'static $crate::criu::entry::Slot<Self> {
                    static SLOT: $crate::criu::entry::Slot<$plugin> = $crate::criu::entry::Slot::new();
                    &SLOT
                }

                fn descriptor() -> &'static $crate::criu::Descriptor {
                    &CR_PLUGIN_DESC
                }
            }

            // CRIU finds this symbol, and no other, by name.
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            pub static CR_PLUGIN_DESC: $crate::criu::Descriptor =
                $crate::criu::Descriptor::new::<$plugin>()$(.$hook::<$plugin>())*;

            // The dynamic loader calls what this section points to.
            #[allow(unsafe_code)]
            #[used]
            #[unsafe(link_section = ".init_array")]
            static ON_LOAD: extern "C" fn() = $crate::criu::entry::on_load::<$plugin>;
        };
    };
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Does what the pid or id it is called with says.
    #[derive(Debug)]
    pub struct Probe {
        exits: &'static AtomicU32,
    }

    static EXITS: AtomicU32 = AtomicU32::new(0);
    static RESUME_FAILED: AtomicU32 = AtomicU32::new(0);

    const PASSES: c_int = 1;
    const HANDLES: c_int = 2;
    const FAILS: c_int = 3;
    const PANICS: c_int = 4;
    const PANICS_WITH_A_BOMB: c_int = 5;

    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a payload's destructor");
        }
    }

    impl Plugin for Probe {
        const NAME: &'static CStr = c"probe";
        const LOG_PREFIX: &'static str = "probe: ";

        fn init(stage: Stage, _host: Host) -> Result<Self, HookError> {
            match stage {
                Stage::Dump => Ok(Probe { exits: &EXITS }),
                Stage::PreDump => panic!("in init"),
                Stage::Restore => Err(HookError::new(Errno::ENOSPC, "no restore today")),
            }
        }

        fn exit(self, _stage: Stage, ret: i32) {
            self.exits.fetch_add(1, Ordering::Relaxed);
            assert!(ret == 0, "in exit");
        }

        fn checkpoint_devices(&mut self, pid: Pid) -> HookResult {
            match pid.as_raw() {
                PASSES => Ok(Reply::PassOn),
                HANDLES => Ok(Reply::Handled(())),
                FAILS => Err(Errno::EAGAIN.into()),
                PANICS => panic!("pid {pid}"),
                PANICS_WITH_A_BOMB => panic::panic_any(Bomb),
                _ => unreachable!(),
            }
        }

        fn resume_devices_late(&mut self, pid: Pid) -> HookResult {
            self.checkpoint_devices(pid)
        }

        fn resume_failed(&mut self, pid: Pid) -> AfterFailure {
            RESUME_FAILED.fetch_add(1, Ordering::Relaxed);
            match pid.as_raw() {
                PANICS => panic!("in resume_failed"),
                PANICS_WITH_A_BOMB => AfterFailure::GoOn,
                _ => AfterFailure::FailRestore,
            }
        }

        fn restore_ext_file(&mut self, id: u32) -> HookResult<OwnedFd> {
            if id == u32::MAX {
                return Ok(Reply::Handled(std::fs::File::open("/dev/null")?.into()));
            }
            Ok(Reply::PassOn)
        }

        fn dump_unix_sk(&mut self, fd: BorrowedFd<'_>, inode: u32) -> HookResult {
            assert_eq!((fd.as_raw_fd(), inode), (0, 7));
            Ok(Reply::Handled(()))
        }

        fn dump_ext_mount(&mut self, mountpoint: &Path, mount_id: i32) -> HookResult {
            assert_eq!((mountpoint, mount_id), (Path::new("/mnt/x"), 33));
            Ok(Reply::Handled(()))
        }

        fn update_vma_map(
            &mut self,
            path: &Path,
            address: u64,
            old_pgoff: u64,
        ) -> HookResult<super::super::VmaMap> {
            assert_eq!((path, old_pgoff), (Path::new("/dev/x"), 4));
            let fd = (address == 1).then(|| std::fs::File::open("/dev/null").unwrap().into());
            Ok(Reply::Handled(super::super::VmaMap { pgoff: 8, fd }))
        }
    }

    crate::export_plugin!(Probe, [checkpoint_devices]);

    const DUMP: c_int = 0;

    /// One test: the instance is the process's only one, and tests run in parallel.
    #[test]
    fn a_plugin_from_load_to_exit() {
        on_load::<Probe>();

        // Neither a hook nor exit before init is a reason to crash.
        exit::<Probe>(DUMP, 0);
        assert_eq!(checkpoint_devices::<Probe>(PASSES), FAILED);
        assert_eq!(EXITS.load(Ordering::Relaxed), 0);

        // A failed init leaves nothing behind that exit could find.
        assert_eq!(init::<Probe>(1), FAILED);
        assert_eq!(init::<Probe>(2), -libc::ENOSPC);
        assert_eq!(init::<Probe>(99), FAILED);
        exit::<Probe>(DUMP, 0);
        assert_eq!(EXITS.load(Ordering::Relaxed), 0);

        for cycle in 1..=3 {
            assert_eq!(init::<Probe>(DUMP), 0);
            assert_eq!(checkpoint_devices::<Probe>(PASSES), -libc::ENOTSUP);
            assert_eq!(checkpoint_devices::<Probe>(HANDLES), 0);
            assert_eq!(checkpoint_devices::<Probe>(FAILS), -libc::EAGAIN);
            exit::<Probe>(DUMP, 0);
            assert_eq!(EXITS.load(Ordering::Relaxed), cycle);
        }

        // The second init of a process whose first run ended without an exit.
        assert_eq!(init::<Probe>(DUMP), 0);
        assert_eq!(init::<Probe>(DUMP), 0);

        // Numbers that name no process.
        for none in [0, -1, c_int::MIN] {
            for hook in [
                checkpoint_devices::<Probe>,
                pause_devices::<Probe>,
                resume_devices_late::<Probe>,
            ] {
                assert_eq!(hook(none), -libc::ENOTSUP);
            }
        }

        // The plugin outlives a panic.
        assert_eq!(checkpoint_devices::<Probe>(PANICS), FAILED);
        assert_eq!(checkpoint_devices::<Probe>(PANICS_WITH_A_BOMB), FAILED);
        assert_eq!(checkpoint_devices::<Probe>(HANDLES), 0);

        // The hook whose code CRIU ignores.
        assert_eq!(resume_devices_late::<Probe>(PASSES), -libc::ENOTSUP);
        assert_eq!(RESUME_FAILED.load(Ordering::Relaxed), 0);
        assert_eq!(resume_devices_late::<Probe>(FAILS), -libc::EAGAIN);
        assert_eq!(resume_devices_late::<Probe>(PANICS), FAILED);
        assert_eq!(RESUME_FAILED.load(Ordering::Relaxed), 2);
        assert_eq!(
            resume_devices_late::<Probe>(PANICS_WITH_A_BOMB),
            -libc::ENOTSUP
        );

        arguments();

        // A hook that is called from inside a hook does not wait for itself.
        let held = Probe::slot().lock();
        assert_eq!(checkpoint_devices::<Probe>(PASSES), FAILED);
        drop(held);

        // exit takes the plugin even if it panics.
        exit::<Probe>(DUMP, -1);
        assert_eq!(EXITS.load(Ordering::Relaxed), 4);
        assert_eq!(checkpoint_devices::<Probe>(PASSES), FAILED);
    }

    fn arguments() {
        // SAFETY: descriptor 0 is open in a test, and -1 is what is to be refused.
        unsafe {
            assert_eq!(dump_unix_sk::<Probe>(0, 7), 0);
            assert_eq!(dump_unix_sk::<Probe>(-1, 7), -libc::EBADF);
        }

        // SAFETY: a C string, and the null pointer that is to be refused.
        unsafe {
            assert_eq!(
                dump_ext_mount::<Probe>(c"/mnt/x".as_ptr().cast_mut(), 33),
                0
            );
            assert_eq!(
                dump_ext_mount::<Probe>(std::ptr::null_mut(), 33),
                -libc::EFAULT
            );
        }

        // This process has no hooks, so like a CRIU without the second argument it may leave anything there.
        // SAFETY: the pointer is not followed.
        let fd = unsafe { restore_ext_file::<Probe>(-1, std::ptr::without_provenance_mut(1)) };
        assert!(
            fd >= 0,
            "the id is the whole 32 bits, and the result is a descriptor"
        );
        nix::unistd::close(fd).unwrap();

        let (mut pgoff, mut fd) = (0, -1);
        let path = c"/dev/x".as_ptr();
        // SAFETY: a C string and two variables.
        unsafe {
            assert_eq!(
                update_vma_map::<Probe>(path, 0, 4, &raw mut pgoff, &raw mut fd),
                1
            );
            assert_eq!((pgoff, fd), (8, -1), "no file: CRIU opens its own");
            assert_eq!(
                update_vma_map::<Probe>(path, 1, 4, &raw mut pgoff, &raw mut fd),
                1
            );
        }
        assert!(fd >= 0);
        nix::unistd::close(fd).unwrap();
    }

    #[test]
    fn only_an_old_criu_is_told_so() {
        let text = too_old(c"signals", 10).unwrap();
        assert_eq!(
            text.to_str().unwrap(),
            "Error (signals): this criu knows 10 plugin hooks; CRIU 4.0 or newer is needed\n"
        );
        assert_eq!(too_old(c"signals", 12), None);
        assert_eq!(too_old(c"signals", 17), None);
    }
}
