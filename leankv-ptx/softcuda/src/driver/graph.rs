//! Graphs: captured work that runs again and again.

use std::sync::Arc;

use rand::RngExt;

use super::Driver;
use super::queue::Work;
use crate::code::{Code, Fail, Res, invalid, unsupported};
use crate::handles::Id;
use crate::settings::Order;

/// A piece of work and the nodes it waits for, all of them earlier ones.
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) after: Vec<usize>,
}

/// The nodes of a graph, and the memory that they allocate and free.
pub(super) struct GraphBody {
    pub(super) nodes: Vec<Node>,
    pub(super) allocated: Vec<u64>,
    pub(super) freed: Vec<u64>,
}

/// A graph.
pub(crate) struct Graph {
    pub(super) body: Arc<GraphBody>,
}

/// A graph that can be launched.
pub(crate) struct Executable {
    body: Arc<GraphBody>,
    auto_free: bool,
    launched: bool,
}

const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

impl Driver {
    /// `cuGraphInstantiateWithFlags`.
    pub(crate) fn graph_instantiate(&self, graph: Id, flags: u64) -> Res<Id> {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(invalid(format!("0x{flags:x} are not flags of an instantiation")));
        }
        if flags & DEVICE_LAUNCH != 0 {
            if flags & AUTO_FREE != 0 {
                return Err(invalid("a graph for launches from the device cannot free automatically"));
            }
            return Err(unsupported("graphs cannot be launched from the device here"));
        }
        let mut state = self.ready()?;
        state.current()?;
        let body = state.graphs.get(graph)?.body.clone();
        let id = state.serial.next();
        let executable = Executable { body, auto_free: flags & AUTO_FREE != 0, launched: false };
        state.executables.insert(id, executable);
        Ok(id)
    }

    /// `cuGraphLaunch`.
    pub(crate) fn graph_launch(&self, executable: Id, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        let (stream, _) = state.stream(handle)?;
        let found = state.executables.get_mut(executable)?;
        let leaves_memory = found.body.allocated.iter().any(|address| !found.body.freed.contains(address));
        if found.launched && leaves_memory && !found.auto_free {
            let why = "the graph allocates memory that its last launch left behind: free it, or instantiate with AUTO_FREE_ON_LAUNCH";
            return Err(invalid(why));
        }
        found.launched = true;
        let work = Work::Graph(found.body.clone());
        self.submit(state, stream, work).map(drop)
    }

    /// `cuGraphUpload`: there is nothing to prepare.
    pub(crate) fn graph_upload(&self, executable: Id, handle: Id) -> Res<()> {
        let mut state = self.ready()?;
        state.stream(handle)?;
        state.executables.get(executable).map(drop)
    }

    /// `cuGraphDestroy`. Executables made of it live on.
    pub(crate) fn graph_destroy(&self, graph: Id) -> Res<()> {
        let removed = self.ready()?.graphs.remove(graph)?;
        self.free_graph_memory(removed.body);
        Ok(())
    }

    /// `cuGraphExecDestroy`. Launches under way go on.
    pub(crate) fn executable_destroy(&self, executable: Id) -> Res<()> {
        let removed = self.ready()?.executables.remove(executable)?;
        self.free_graph_memory(removed.body);
        Ok(())
    }

    /// `cuGraphGetNodes`: how many there are.
    pub(crate) fn graph_node_count(&self, graph: Id) -> Res<usize> {
        Ok(self.ready()?.graphs.get(graph)?.body.nodes.len())
    }

    /// Frees memory that nodes allocated, when nothing can run them any more.
    fn free_graph_memory(&self, body: Arc<GraphBody>) {
        let Ok(body) = Arc::try_unwrap(body) else { return };
        let mut state = self.lock();
        let held: Vec<u64> =
            body.allocated.into_iter().filter(|address| state.forget_memory(*address).is_some()).collect();
        drop(state);
        let mut engine = self.engine();
        for address in held {
            engine.free(address);
        }
    }

    /// An order of the nodes that keeps every wait. In deferred order the seed picks one, so that a missing edge shows.
    pub(super) fn node_order(&self, body: &GraphBody) -> Vec<usize> {
        let count = body.nodes.len();
        if self.settings.order == Order::Eager {
            return (0..count).collect();
        }
        let mut state = self.lock();
        let mut done = vec![false; count];
        let mut order = Vec::with_capacity(count);
        while order.len() < count {
            let free: Vec<usize> = (0..count)
                .filter(|&node| !done[node] && body.nodes[node].after.iter().all(|&earlier| done[earlier]))
                .collect();
            // Nodes wait for earlier ones only, so one is always free.
            let node = free[state.random.random_range(0..free.len())];
            done[node] = true;
            order.push(node);
        }
        order
    }

    /// A launch of memory that a graph owns, freed by a node: nothing to do at run time.
    pub(super) fn free_in_capture(&self, owned: bool) -> Res<Work> {
        if owned {
            return Ok(Work::Nothing);
        }
        let why = "a captured free must be of memory that was allocated in the same capture";
        Err(Fail::new(Code::InvalidValue, why))
    }
}
