//! Stream capture and graphs.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use crate::abi::entry;
use crate::types::{Handle, Out};

entry! {
    fn cuStreamBeginCapture_v2(driver, stream: Handle, mode: c_int) {
        driver.capture_begin(stream.id(), mode)
    }

    fn cuStreamEndCapture(driver, stream: Handle, graph: Out<Handle>) {
        graph.check()?;
        match driver.capture_end(stream.id()) {
            Ok(id) => graph.set(Handle::from_id(id)),
            Err(fail) => {
                graph.set(Handle::from_id(0))?;
                Err(fail)
            }
        }
    }

    fn cuStreamIsCapturing(driver, stream: Handle, status: Out<c_int>) {
        status.set(driver.capture_status(stream.id())?.0 as c_int)
    }

    fn cuStreamGetCaptureInfo_v2(
        driver,
        stream: Handle,
        status: Out<c_int>,
        id: Out<c_ulonglong>,
        graph: Out<Handle>,
        dependencies: Out<*const c_void>,
        count: Out<usize>,
    ) {
        if !(graph.is_null() && dependencies.is_null() && count.is_null()) {
            return Err(crate::code::unsupported("nodes of a capture in progress cannot be looked at here"));
        }
        let (value, number) = driver.capture_status(stream.id())?;
        status.set(value as c_int)?;
        id.set_if_wanted(number);
        Ok(())
    }

    fn cuGraphInstantiateWithFlags(driver, executable: Out<Handle>, graph: Handle, flags: c_ulonglong) {
        executable.check()?;
        executable.set(Handle::from_id(driver.graph_instantiate(graph.id(), flags)?))
    }

    fn cuGraphLaunch(driver, executable: Handle, stream: Handle) {
        driver.graph_launch(executable.id(), stream.id())
    }

    fn cuGraphUpload(driver, executable: Handle, stream: Handle) {
        driver.graph_upload(executable.id(), stream.id())
    }

    fn cuGraphDestroy(driver, graph: Handle) {
        driver.graph_destroy(graph.id())
    }

    fn cuGraphExecDestroy(driver, executable: Handle) {
        driver.executable_destroy(executable.id())
    }

    fn cuGraphGetNodes(driver, graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        if !nodes.is_null() {
            return Err(crate::code::unsupported("nodes have no handles here; ask for their number"));
        }
        count.set(driver.graph_node_count(graph.id())?)
    }

    fn cuGraphCreate(_driver, _graph: Out<Handle>, _flags: c_uint) {
        Err(crate::code::unsupported("graphs are made by stream capture here"))
    }
}
