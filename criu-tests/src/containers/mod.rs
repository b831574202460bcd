//! Containers under real engines.
//!
//! An engine starts criu itself, looks for it in `PATH`, and criu looks for plugins and settings in folders of the
//! machine. So each test gets a machine of its own, as far as these can see: [`host`] makes the root of one out of
//! Debian packages and moves this process into it, [`cgroups`] gives it a cgroup tree, [`bundle`] is a container's
//! configuration and root file system, [`engine`] is runc or crun, [`podman`] stands above them.

pub mod bundle;
pub mod cgroups;
pub mod engine;
pub mod host;
pub mod podman;
