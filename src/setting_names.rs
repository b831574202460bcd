//! The names of the plugin's settings, for messages that tell the reader which setting to change.
//! [`checkpoint::options`](crate::checkpoint::options) has the meaning of the settings; the plugin reads the settings.

/// What makes a dump or a restore fail instead of being a warning.
pub const REFUSE: &str = "CRIU_SIGNALS_REFUSE";
/// Whether signals may be taken out of a process for the time of a dump.
pub const TAKE_OUT: &str = "CRIU_SIGNALS_TAKE_OUT";
/// Whether the overruns of pending timers are counted at a dump.
pub const OVERRUNS: &str = "CRIU_SIGNALS_TIMER_OVERRUNS";
/// From which length on a timeout that begins anew is a warning.
pub const LONG_TIMEOUT: &str = "CRIU_SIGNALS_LONG_TIMEOUT";
/// How many siginfos the images of a restore may hold.
pub const MAX_SIGINFOS: &str = "CRIU_SIGNALS_MAX_SIGINFOS";
