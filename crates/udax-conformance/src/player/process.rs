//! Processes: the script's own, and forked children.

use super::maps::Map;
use super::{Answer, Failed, Player};
use crate::recording::Record;
use std::collections::BTreeMap;
use std::sync::Arc;
use udax_sim::{Process, SimThread};

/// A process, and its mappings by name.
pub(super) struct ProcessState {
    pub(super) process: Arc<Process>,
    pub(super) thread: SimThread,
    pub(super) maps: BTreeMap<String, Map>,
}

impl ProcessState {
    pub(super) fn new(process: Arc<Process>) -> Self {
        let thread = process.thread(0);
        Self { process, thread, maps: BTreeMap::new() }
    }
}

impl Player<'_> {
    pub(super) fn here(&self) -> &ProcessState {
        self.processes.last().expect("the script's process is there")
    }

    pub(super) fn here_mut(&mut self) -> &mut ProcessState {
        self.processes.last_mut().expect("the script's process is there")
    }

    pub(super) fn map(&self, name: &str) -> Result<&Map, Failed> {
        self.here().maps.get(name).ok_or(Failed::NoSuchName)
    }

    pub(super) fn fork(&mut self) -> Answer {
        let fork = self.here().process.fork();
        let mut child = ProcessState::new(fork.child);
        for (name, map) in &self.here().maps {
            child.maps.insert(name.clone(), map.copy(&fork.vmas));
        }
        self.processes.push(child);
        Ok(Record { child: Some(true), ..Record::default() })
    }

    pub(super) fn end_fork(&mut self) -> Answer {
        if self.processes.len() < 2 {
            return Err(Failed::NotCompared("there is no child"));
        }
        if let Some(child) = self.processes.pop() {
            for map in child.maps.values() {
                map.detach();
            }
        }
        Ok(Record { status: Some(0), ..Record::default() })
    }
}
