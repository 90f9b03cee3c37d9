//! Backends that are one of the file's own listeners: a session to such a one would come back and bring the next. What only
//! the kernel knows, such as the addresses of its interfaces, discovery finds out.

use std::net::SocketAddr;

use super::faults::{Complaint, Reading, shown};
use super::shape::FileShape;
use super::{Host, Listener, address};

/// Complains of them where they are written.
pub(super) fn refuse(shape: &FileShape, listeners: &[Listener], reading: &mut Reading<'_>) {
    let pools = shape.pools.iter().flat_map(|pools| &pools.shape);
    let backends = pools.filter_map(|(_, pool)| pool.shape.backends.as_ref()).flat_map(|backends| backends.get_ref());
    let written: Vec<_> = backends.filter_map(|backend| backend.shape.address.as_ref()).collect();
    for written in written {
        // What is no address has been complained of.
        let Some(Ok(parsed)) = reading.text_again(written).map(|text| address::backend(&text)) else { continue };
        let Host::Ip(ip) = parsed.host else { continue };
        if let Some(listener) = listener_at(listeners, SocketAddr::new(ip, parsed.port)) {
            let what =
                format!("it is the file's own listener `{}`: its sessions would go round in a circle", listener.name);
            let hint = "write where the backend itself listens";
            reading.refuse(written.span(), "address", &shown(&parsed.to_string()), Complaint::new(what, hint));
        }
    }
}

/// The listener that certainly takes what goes to an address.
fn listener_at(listeners: &[Listener], address: SocketAddr) -> Option<&Listener> {
    let ip = address::dialled(address.ip());
    // `[::]` leaves IPv4 to others where the file gives it to one.
    let mut binds = listeners.iter().flat_map(|listener| &listener.bind);
    let v4_is_taken = binds.any(|bind| bind.is_ipv4() && bind.port() == address.port());
    listeners.iter().find(|listener| {
        listener.bind.iter().filter(|bind| bind.port() == address.port()).any(|bind| {
            let ours = bind.ip().to_canonical();
            let same_family = ours.is_ipv4() == ip.is_ipv4() || ours.is_ipv6() && !v4_is_taken;
            ours == ip || ours.is_unspecified() && same_family && ip.is_loopback()
        })
    })
}
