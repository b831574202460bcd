//! `make zdtm`: CRIU's own test suite, without the plugin and with it, compared.
//!
//! The suite stays where its user has it: [`tree`] copies what is needed, and builds there. [`suite`] runs `zdtm.py`
//! once each [way](suite::Way), [`output`] reads what it prints, [`compare`] says where the two differ, [`logs`] reads
//! what the plugin said in criu's logs, and [`report`] makes a text of it all.

pub mod compare;
pub mod logs;
pub mod output;
pub mod report;
pub mod suite;
pub mod tree;
