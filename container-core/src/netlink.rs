//! Network devices of the host in the container's network namespace (rtnetlink, three kinds of messages).
//!
//! A device leaves for the other namespace, under its name there, and is down after that, without its addresses: the
//! runtime specification wants the global ones back and the device up, so they are read before and set inside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::step::Step;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE_CREATE: u16 = 0x500;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_FLAGS: u16 = 8;
const IFA_CACHEINFO: u16 = 6;
const IFF_UP: u32 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFA_F_PERMANENT: u32 = 0x80;

/// Moves devices into the network namespace of process `pid`, under their names inside. All or none: when one cannot be moved or
/// set up, those before it come back as they were, for they would end with the namespace.
pub(crate) fn move_devices(devices: &[(String, String)], pid: i32) -> Result<()> {
    let failed = |name: &str| {
        let name = name.to_owned();
        move |e: io::Error| Error::setup(Step::NetworkDevice, name, e)
    };
    let open = |path: &str| std::fs::File::open(path).map(OwnedFd::from).map_err(failed(path));
    let (own, inside) = (open("/proc/thread-self/ns/net")?, open(&format!("/proc/{pid}/ns/net"))?);
    let host = Route::open().map_err(failed("netlink"))?;
    let mut moved = Vec::new();
    let result = devices.iter().try_for_each(|(name, new_name)| {
        let mut send = || {
            let link = host.link(name)?;
            let addresses = host.addresses(link.index)?;
            let sent = host.send_away(link.index, inside.as_fd(), new_name);
            // The kernel moves first and renames then: it may have failed in between.
            let arrived =
                if sent.is_ok() { Some(new_name) } else { host.link(name).is_err().then_some(name) };
            moved.extend(arrived.map(|inside| Moved {
                name,
                inside,
                up: link.flags & IFF_UP != 0,
                addresses,
            }));
            sent
        };
        send().map_err(failed(name))
    });
    let result = result.and_then(|()| {
        let settle =
            |route: &Route| moved.iter().try_for_each(|device| device.settle(route, device.inside, true));
        within(inside.as_fd(), settle).map_err(failed("addresses inside"))
    });
    if result.is_err() {
        // The error that counts is the one that led here.
        let _ = within(inside.as_fd(), |route| {
            for device in moved.iter().rev() {
                let back = route.link(device.inside);
                let _ = back.and_then(|link| route.send_away(link.index, own.as_fd(), device.name));
            }
            Ok(())
        });
        for device in &moved {
            let _ = device.settle(&host, device.name, device.up);
        }
    }
    result
}

/// Does something in another network namespace. A namespace is a thread's: one of its own goes there and ends.
fn within(namespace: BorrowedFd<'_>, action: impl FnOnce(&Route) -> io::Result<()> + Send) -> io::Result<()> {
    let there = || {
        crate::sys::thread::set_namespace(namespace.as_raw_fd(), libc::CLONE_NEWNET as u64)?;
        action(&Route::open()?)
    };
    let done = std::thread::scope(|scope| scope.spawn(there).join());
    done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// A device that has been moved, and what it had before.
struct Moved<'a> {
    name: &'a str,
    inside: &'a str,
    up: bool,
    addresses: Vec<Address>,
}

impl Moved<'_> {
    /// Gives the device its addresses, and raises it, in the namespace of `route`, where it is called `name`.
    fn settle(&self, route: &Route, name: &str, up: bool) -> io::Result<()> {
        let link = route.link(name)?;
        for address in &self.addresses {
            route.add_address(link.index, address)?;
        }
        if up { route.raise(link.index) } else { Ok(()) }
    }
}

/// What the kernel tells about a device.
struct Link {
    index: u32,
    flags: u32,
}

/// An address as the kernel told it: family, prefix length, and its attributes.
struct Address {
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

struct Route(OwnedFd);

impl Route {
    fn open() -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    fn link(&self, name: &str) -> io::Result<Link> {
        let mut body = link_header(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        let mut link = None;
        self.request(RTM_GETLINK, 0, &body, |kind, body| {
            if kind == RTM_NEWLINK {
                link = u32_at(body, 4).zip(u32_at(body, 8)).map(|(index, flags)| Link { index, flags });
            }
        })?;
        link.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The addresses of a device that are of use elsewhere: global and permanent ones.
    fn addresses(&self, device: u32) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.request(RTM_GETADDR, NLM_F_DUMP, &[0; 8], |kind, body| {
            let [family, prefix, flags, scope] = *body.first_chunk().unwrap_or(&[0; 4]);
            if kind != RTM_NEWADDR || u32_at(body, 4) != Some(device) || scope != RT_SCOPE_UNIVERSE {
                return;
            }
            let attributes = attributes(body.get(8..).unwrap_or_default());
            let wide = attributes
                .iter()
                .find(|(kind, _)| *kind == IFA_FLAGS)
                .and_then(|(_, value)| u32_at(value, 0));
            if wide.unwrap_or(flags.into()) & IFA_F_PERMANENT == 0 {
                return;
            }
            let attributes = attributes.into_iter().filter(|(kind, _)| *kind != IFA_CACHEINFO).collect();
            found.push(Address { family, prefix, flags, scope, attributes });
        })?;
        Ok(found)
    }

    fn send_away(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut body = link_header(index, 0, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        self.request(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    fn add_address(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, address.flags, address.scope];
        body.extend_from_slice(&index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_REPLACE_CREATE, &body, |_, _| {})
    }

    fn raise(&self, index: u32) -> io::Result<()> {
        self.request(RTM_NEWLINK, NLM_F_ACK, &link_header(index, IFF_UP, IFF_UP), |_, _| {})
    }

    /// Sends one request and gives every message of the answer to `each`, until the kernel has nothing more to say.
    fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let flags = flags | NLM_F_REQUEST;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        rustix::net::send(&self.0, &message, SendFlags::empty())?;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (length, _) = rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some(size) = u32_at(rest, 0).map(|size| size as usize).filter(|size| *size >= 16) {
                let body = rest.get(16..size).ok_or(io::ErrorKind::InvalidData)?;
                match u16_at(rest, 4) {
                    Some(NLMSG_DONE) => return Ok(()),
                    Some(NLMSG_ERROR) => {
                        return match u32_at(body, 0).map_or(0, |code| code as i32) {
                            0 => Ok(()),
                            errno => Err(io::Error::from_raw_os_error(-errno)),
                        };
                    }
                    Some(kind) => each(kind, body),
                    None => {}
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
            // Neither a list nor an acknowledgement was asked for: the one answer was all.
            if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                return Ok(());
            }
        }
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, flags, change] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn attributes(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        out.push((kind, value.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_trip() {
        let mut body = Vec::new();
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, 28, &7u32.to_ne_bytes());
        assert_eq!(body.len() % 4, 0);
        assert_eq!(attributes(&body), [(3, b"eth0\0".to_vec()), (28, 7u32.to_ne_bytes().to_vec())]);
        assert!(attributes(&[9, 0, 0, 0]).is_empty());
    }

    /// Moves devices between two network namespaces of its own, on a thread of its own.
    #[test]
    fn what_was_moved_comes_back_when_a_later_one_fails() {
        std::thread::spawn(|| {
            if crate::sys::thread::unshare(libc::CLONE_NEWNET as u64).is_err() {
                return eprintln!("SKIPPED: a network namespace takes root");
            }
            let ip = |words: &str| {
                let output = std::process::Command::new("ip").args(words.split(' ')).output();
                output.ok().filter(|o| o.status.success()).map(|o| String::from_utf8(o.stdout).unwrap())
            };
            if ip("link add v0 type veth peer name v1").is_none() {
                return eprintln!("SKIPPED: no command `ip`, or no veth devices");
            }
            ip("addr add 10.98.7.6/24 dev v0").unwrap();
            ip("link set v0 up").unwrap();
            let mut other =
                std::process::Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
            let pid = i32::try_from(other.id()).unwrap();
            let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == own {
                std::thread::yield_now();
            }
            let moved = |second: &str| {
                let list = [("v0", "eth0"), ("v1", second), ("missing", "eth2")];
                let list = list.map(|(name, inside)| (name.to_owned(), inside.to_owned()));
                let failed = move_devices(&list, pid).map(drop);
                (failed, ip("addr show v0"), ip("addr show v1"))
            };
            for second in ["eth1", "eth0"] {
                let (failed, v0, v1) = moved(second);
                assert!(failed.is_err());
                let v0 = v0.expect("v0 is back");
                assert!(v0.contains("10.98.7.6/24") && v0.contains(",UP"), "{v0}");
                let v1 = v1.expect("v1 is back");
                assert!(!v1.contains(",UP"), "{v1}");
            }
            move_devices(&[("v0".to_owned(), "eth0".to_owned())], pid).unwrap();
            assert_eq!(ip("addr show v0"), None);
            other.kill().unwrap();
            other.wait().unwrap();
        })
        .join()
        .unwrap();
    }
}
