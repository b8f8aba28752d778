//! Follow: which nodes there are, who of them is the primary, and from whom to stream.
//!
//! Every node is asked once a second by a task of its own ([`node`]). A pure function ([`choose`]) turns what they say, and what
//! the repository has, into a choice with its reasons; another one ([`position`]) says where in the WAL to go on there.
//! Whoever asks a node also keeps our slot on it ([`keep`], [`slot`]), so that the next primary still has the WAL we need; a node
//! that has left the cluster loses it ([`leave`]).

mod choose;
mod keep;
mod leave;
mod list;
mod node;
mod once;
mod position;
mod run;
#[cfg(test)]
mod simulation_tests;
mod slot;
mod source;

pub use choose::{Choice, Current, Role, Verdict, View, choose};
pub use list::{Node, Origin};
pub use node::{Observation, Seen, Upstream, look_at_all};
pub use once::Look;
pub use position::{Decision, Known, decide};
pub use run::{FollowConfig, FollowStatus, Switch, run};
pub use slot::{SlotSeen, SlotState};
pub use source::{BackupSource, source_of_backup};
