//! The functions of the criu that loaded the plugin, found by name when the plugin starts.

// C functions of the host are called through pointers that dlsym found.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString, c_char, c_int, c_uint, c_void};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;

use libloading::os::unix::Library;
use nix::errno::Errno;
use thiserror::Error;

use super::stream::{self, ImageStream, ImgStreamerOpen};

type GetImageDir = unsafe extern "C" fn() -> c_int;
type PrintOnLevel = unsafe extern "C" fn(c_uint, *const c_char, ...);
type GetLogLevel = unsafe extern "C" fn() -> c_uint;
type AddInventoryPlugin = unsafe extern "C" fn(*const c_char) -> c_int;
type GetOptions = unsafe extern "C" fn(*mut c_int, *mut *const *const c_char) -> c_int;
type CheckAndRemoveInventoryPlugin = unsafe extern "C" fn(*const c_char, usize) -> bool;

/// The criu that loaded the plugin.
///
/// A copy may be kept as long as the plugin lives. In a process that is not criu every function is missing, which the
/// methods say.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    get_image_dir: Option<GetImageDir>,
    print_on_level: Option<PrintOnLevel>,
    get_log_level: Option<GetLogLevel>,
    add_inventory_plugin: Option<AddInventoryPlugin>,
    check_and_remove_inventory_plugin: Option<CheckAndRemoveInventoryPlugin>,
    get_options: Option<GetOptions>,
    img_streamer_open: Option<ImgStreamerOpen>,
    hook_count: Option<usize>,
}

/// A call to the host that could not be made, or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostError {
    /// The process that loaded the plugin has no such function, though every CRIU from 4.0 on does.
    #[error("this process has no function {0}: not a criu process")]
    Missing(&'static str),
    /// CRIU has no image folder open: before the run has started, or after a restore has succeeded.
    #[error("criu has no image folder open")]
    NoImageDir,
    /// CRIU could not take the plugin into the inventory: it is out of memory.
    #[error("criu could not record the plugin in the inventory: add_inventory_plugin returned {0}")]
    Inventory(c_int),
    /// CRIU did not give the plugin's options.
    #[error("criu gave no plugin options: criu_plugin_get_options returned {0}")]
    Options(c_int),
    /// Whether CRIU streams its images could not be found out.
    #[error("look for criu's connection to an image streamer: {0}")]
    Stream(Errno),
}

/// What became of a wish to be recorded in the inventory image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inventory {
    /// The images will name the plugin.
    Recorded,
    /// This CRIU is older than 4.1 and keeps no list of plugins.
    Unsupported,
}

/// CRIU's log levels, by its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// Something failed.
    Error = 1,
    /// Something is wrong, and the run goes on.
    Warn = 2,
    /// Shown from `-v3` on.
    Info = 3,
    /// Shown with `-v4`.
    Debug = 4,
}

impl Host {
    /// Looks the functions up in the process that this code runs in.
    #[must_use]
    pub fn find() -> Host {
        let process = Library::this();
        // SAFETY: the names are CRIU's, and the types are those of its headers in 4.0 to 4.3. A process that has
        // functions of these names and other types is no criu, and nobody loads a CRIU plugin there.
        unsafe {
            Host {
                get_image_dir: function(&process, c"criu_get_image_dir"),
                print_on_level: function(&process, c"print_on_level"),
                get_log_level: function(&process, c"log_get_loglevel"),
                add_inventory_plugin: function(&process, c"add_inventory_plugin"),
                check_and_remove_inventory_plugin: function(
                    &process,
                    c"check_and_remove_inventory_plugin",
                ),
                get_options: function(&process, c"criu_plugin_get_options"),
                img_streamer_open: function(&process, c"img_streamer_open"),
                hook_count: hook_count(&process),
            }
        }
    }

    /// What CRIU was told for the plugin of this name, by `--plugin-option PLUGIN.NAME=VALUE` or in a request
    /// (`plugin_options`): for each `NAME` or `NAME=VALUE`, in the order given. CRIU 4.3 gives a plugin those of all plugins,
    /// and says nothing of options that are for none.
    ///
    /// Empty where CRIU is older than 4.3, which has no such option.
    ///
    /// # Errors
    /// [`HostError::Options`] if CRIU has none to give.
    pub fn plugin_options(&self, plugin: &str) -> Result<Vec<OsString>, HostError> {
        let Some(get) = self.get_options else {
            return Ok(Vec::new());
        };
        let (mut count, mut list) = (0, std::ptr::null());
        // SAFETY: `int criu_plugin_get_options(int *argc, char ***argv)` (criu-plugin.h of 4.3), with a place for each.
        match unsafe { get(&raw mut count, &raw mut list) } {
            0 => {}
            code => return Err(HostError::Options(code)),
        }
        // The first is in the place of a program's name.
        let others = 1..usize::try_from(count).map_err(|_| HostError::Options(count))?;
        let prefix = format!("--{plugin}.");
        let own = others.filter_map(|at| {
            // SAFETY: CRIU keeps `count` strings in the list, at least while a plugin's function runs. They are copied.
            let text = unsafe { CStr::from_ptr(*list.add(at)) }.to_bytes();
            let own = text.strip_prefix(prefix.as_bytes())?;
            Some(OsString::from_vec(own.to_vec()))
        });
        Ok(own.collect())
    }

    /// The folder of the images, the work folder of this dump or restore.
    ///
    /// Ask again in every hook instead of keeping the number: CRIU moves its descriptors about when it forks, and
    /// closes this one when a restore has succeeded, before `exit`.
    ///
    /// # Errors
    /// [`HostError::NoImageDir`] if no folder is open, [`HostError::Missing`] if the process is no criu.
    pub fn image_dir(&self) -> Result<BorrowedFd<'_>, HostError> {
        let get = self
            .get_image_dir
            .ok_or(HostError::Missing("criu_get_image_dir"))?;
        // SAFETY: `int criu_get_image_dir(void)`, found by this name.
        let fd = unsafe { get() };
        if fd < 0 {
            return Err(HostError::NoImageDir);
        }
        // SAFETY: CRIU says that the descriptor is open. It stays so while a hook runs: CRIU has one thread, and this
        // is it.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The image streamer that takes or gives the images of this run (`--stream`). The folder of
    /// [`image_dir`](Self::image_dir) is no more than the place of the socket then: CRIU leaves nothing in it, and neither
    /// should a plugin.
    ///
    /// `None` without `--stream`.
    ///
    /// # Errors
    /// [`HostError::Missing`] if this CRIU streams images and has no function for plugins to do so;
    /// [`HostError::Stream`] if the list of open descriptors can't be read.
    pub fn image_stream(&self) -> Result<Option<ImageStream>, HostError> {
        let failed = |e: std::io::Error| {
            HostError::Stream(Errno::from_raw(e.raw_os_error().unwrap_or_default()))
        };
        match self.img_streamer_open {
            Some(open) => ImageStream::find(open).map_err(failed),
            None if stream::direction()
                .map(|one| one.is_some())
                .map_err(failed)? =>
            {
                Err(HostError::Missing("img_streamer_open"))
            }
            None => Ok(None),
        }
    }

    /// Writes one line to CRIU's log: `text` as it is, which ends with a newline.
    ///
    /// CRIU cuts nothing off itself and its buffer holds 8 KiB; what is longer makes it write out what lies behind the
    /// buffer. So keep lines short, or use the `log` crate, whose records are split.
    ///
    /// # Errors
    /// [`HostError::Missing`] if the process is no criu.
    pub fn print_on_level(&self, level: LogLevel, text: &CStr) -> Result<(), HostError> {
        let print = self
            .print_on_level
            .ok_or(HostError::Missing("print_on_level"))?;
        // SAFETY: `void print_on_level(unsigned int loglevel, const char *format, ...)`, with a format that takes one
        // string, and one string. CRIU keeps neither pointer.
        unsafe { print(level as c_uint, c"%s".as_ptr(), text.as_ptr()) };
        Ok(())
    }

    /// Down to which level CRIU's log is written, as a number that can be above [`LogLevel::Debug`].
    ///
    /// # Errors
    /// [`HostError::Missing`] if the process is no criu.
    pub fn log_level(&self) -> Result<u32, HostError> {
        let get = self
            .get_log_level
            .ok_or(HostError::Missing("log_get_loglevel"))?;
        // SAFETY: `unsigned int log_get_loglevel(void)`, found by this name.
        Ok(unsafe { get() })
    }

    /// Records in the images that they can't be restored without the plugin of this name. Meant for the dump, once,
    /// in `init` or a hook: at `exit` the inventory is already written.
    ///
    /// The plugin must then call [`check_and_remove_inventory_plugin`](Self::check_and_remove_inventory_plugin) in its
    /// `init` for a restore. What is still on the list after the `init` of all plugins fails the restore.
    ///
    /// A restore without `--libdir` (or `CRIU_LIBS_DIR`) on a machine that has no default plugin folder skips that
    /// check, up to 4.3 at least, and succeeds without the plugin.
    ///
    /// # Errors
    /// [`HostError::Inventory`] if CRIU is out of memory. That CRIU keeps no such list is no error:
    /// [`Inventory::Unsupported`].
    pub fn add_inventory_plugin(&self, name: &CStr) -> Result<Inventory, HostError> {
        let Some(add) = self.add_inventory_plugin else {
            return Ok(Inventory::Unsupported);
        };
        // SAFETY: `int add_inventory_plugin(const char *name)`, which copies the name.
        match unsafe { add(name.as_ptr()) } {
            0 => Ok(Inventory::Recorded),
            code => Err(HostError::Inventory(code)),
        }
    }

    /// Takes one entry of this name off the list of plugins that the restore waits for, and says whether there was
    /// one. Meant for `init` at a restore.
    ///
    /// `None`: this CRIU is older than 4.1 and keeps no such list. `Some(true)` is also the answer where the images
    /// are of such a CRIU: every plugin may take part then.
    #[must_use]
    pub fn check_and_remove_inventory_plugin(&self, name: &CStr) -> Option<bool> {
        let check = self.check_and_remove_inventory_plugin?;
        // CRIU compares as many bytes as it is told to: with the NUL counted in, only the whole name is equal.
        let name = name.to_bytes_with_nul();
        // SAFETY: `bool check_and_remove_inventory_plugin(const char *name, size_t n)` reads at most `n` bytes.
        Some(unsafe { check(name.as_ptr().cast(), name.len()) })
    }

    /// How many hooks this CRIU knows: 12 in 4.0 to 4.1.1, 13 in 4.2, 17 in 4.3, fewer in older ones.
    ///
    /// `None` if the process is not a criu, or its symbols don't tell.
    #[must_use]
    pub fn hook_count(&self) -> Option<usize> {
        self.hook_count
    }

    /// The versions of CRIU that this one can be, as far as its number of hooks tells; CRIU does not tell a plugin more.
    ///
    /// `None` if the number is not known, or is that of no version up to 4.3.
    #[must_use]
    pub fn versions(&self) -> Option<&'static str> {
        self.hook_count.and_then(versions_with)
    }
}

/// The versions that know this number of hooks: `CR_PLUGIN_HOOK__MAX` of their `criu-plugin.h`.
fn versions_with(hooks: usize) -> Option<&'static str> {
    match hooks {
        12 => Some("4.0 to 4.1"),
        13 => Some("4.2"),
        17 => Some("4.3"),
        _ => None,
    }
}

/// # Safety
///
/// If the process has a symbol of this name, it is a function of type `F`.
unsafe fn function<F: Copy>(process: &Library, name: &CStr) -> Option<F> {
    // SAFETY: by the caller. The pointer outlives `process`, a handle to the whole process: dlclose unloads nothing
    // that the program itself consists of.
    unsafe { process.get::<F>(name) }.ok().map(|symbol| *symbol)
}

/// CRIU says nowhere how many hooks it knows. But its list of hook chains is a global variable, one list head and one
/// more for each hook, and the symbol table has its size.
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
fn hook_count(process: &Library) -> Option<usize> {
    /// Not in the libc crate: dladdr1 is to return the symbol table's entry.
    const RTLD_DL_SYMENT: c_int = 1;

    // SAFETY: the symbol's address is taken and never followed.
    let chains = unsafe { process.get::<*const c_void>(c"cr_plugin_ctl") }
        .ok()?
        .as_raw_ptr();
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    let mut entry: *mut c_void = std::ptr::null_mut();
    // SAFETY: both out pointers are to variables of the types that the man page states for this flag.
    let found = unsafe { libc::dladdr1(chains, info.as_mut_ptr(), &raw mut entry, RTLD_DL_SYMENT) };
    if found == 0 || entry.is_null() {
        return None;
    }
    // SAFETY: with this flag a successful dladdr1 stores a pointer to the object's own symbol table, or NULL, which
    // is ruled out. The program it lies in is never unloaded.
    let size = unsafe { (*entry.cast::<libc::Elf64_Sym>()).st_size };
    hooks_in(usize::try_from(size).ok()?)
}

/// Other C libraries have no dladdr1.
#[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
fn hook_count(_process: &Library) -> Option<usize> {
    None
}

/// The number of hooks of a `cr_plugin_ctl_t` of `size` bytes.
#[cfg_attr(
    not(all(target_env = "gnu", target_pointer_width = "64")),
    allow(dead_code)
)]
fn hooks_in(size: usize) -> Option<usize> {
    const LIST_HEAD: usize = 2 * size_of::<*const c_void>();
    if !size.is_multiple_of(LIST_HEAD) {
        return None;
    }
    (size / LIST_HEAD).checked_sub(1).filter(|&hooks| hooks > 0)
}

#[cfg(test)]
mod tests {
    use super::super::HOOKS;
    use super::*;

    #[test]
    fn a_process_that_is_not_criu_says_so() {
        let host = Host::find();
        assert_eq!(
            host.image_dir().unwrap_err(),
            HostError::Missing("criu_get_image_dir")
        );
        assert_eq!(
            host.print_on_level(LogLevel::Info, c"x\n"),
            Err(HostError::Missing("print_on_level"))
        );
        assert_eq!(
            host.log_level(),
            Err(HostError::Missing("log_get_loglevel"))
        );
        assert_eq!(
            host.add_inventory_plugin(c"probe"),
            Ok(Inventory::Unsupported)
        );
        assert_eq!(host.check_and_remove_inventory_plugin(c"probe"), None);
        assert!(matches!(host.image_stream(), Ok(None)));
        assert_eq!(host.plugin_options("probe"), Ok(Vec::new()));
        assert_eq!(host.hook_count(), None);
        assert_eq!(host.versions(), None);
    }

    /// The sizes that `readelf --dyn-syms` shows for cr_plugin_ctl in Debian's binaries.
    #[test]
    fn the_size_of_the_chains_tells_the_hooks() {
        assert_eq!(hooks_in(176), Some(10), "3.17.1");
        assert_eq!(hooks_in(208), Some(12), "4.1.1");
        assert_eq!(hooks_in(224), Some(13), "4.2.1");
        assert_eq!(hooks_in(288), Some(17), "4.3");
        assert_eq!(hooks_in(0), None);
        assert_eq!(hooks_in(16), None);
        assert_eq!(hooks_in(200), None);
    }

    #[test]
    fn every_version_that_loads_such_a_plugin_has_a_name() {
        assert_eq!(versions_with(HOOKS), Some("4.0 to 4.1"));
        assert_eq!(versions_with(13), Some("4.2"));
        assert_eq!(versions_with(17), Some("4.3"));
        assert_eq!(versions_with(10), None, "3.17.1");
    }
}
