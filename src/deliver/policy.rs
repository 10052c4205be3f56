//! Which addresses deliveries may reach: public ones, and those `security.allow_targets` (for subscriptions
//! `subscriptions.allow_targets`) lets through. Pure.
//!
//! Facts: IANA special-purpose address registries; RFC 6052 and 8215 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo). Addresses
//! that carry an IPv4 address are as good as that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

use crate::config::AllowTarget;

/// What deliveries may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    nets: Vec<IpNet>,
    hosts: Vec<String>,
    /// Whether it is that of subscriptions, which no setting for destinations opens.
    of_subscriptions: bool,
}

/// IPv4 networks that are no public unicast: first address and length of the prefix.
const FORBIDDEN_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // IETF protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays, deprecated
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// The one block of IPv6 global unicast; whatever lies outside is private, local, multicast or reserved.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What is not public within it.
const FORBIDDEN_V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // IETF protocol assignments: benchmarking, ORCHID, …
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

impl AddressPolicy {
    /// Public addresses, and those that `allow` names.
    pub fn new(allow: &[AllowTarget]) -> Self {
        let mut policy = Self::default();
        for target in allow {
            match target {
                AllowTarget::Net(net) => policy.nets.push(*net),
                AllowTarget::Host(host) => policy.hosts.push(plain(host)),
            }
        }
        policy
    }

    /// The same for subscriptions, of which strangers name the URLs.
    pub fn of_subscriptions(allow: &[AllowTarget]) -> Self {
        Self { of_subscriptions: true, ..Self::new(allow) }
    }

    /// The setting that lets private addresses through.
    pub fn setting(&self) -> &'static str {
        if self.of_subscriptions { "subscriptions.allow_targets" } else { "security.allow_targets" }
    }

    /// Whether a delivery may go to `address`.
    pub fn permits(&self, address: IpAddr) -> bool {
        if self.nets.iter().any(|net| net.contains(&address)) {
            return true;
        }
        match address {
            IpAddr::V4(v4) => self.permits_v4(v4),
            IpAddr::V6(v6) => self.permits_v6(v6),
        }
    }

    /// Whether `host`, a name, may resolve to any address.
    pub fn permits_name(&self, host: &str) -> bool {
        self.hosts.contains(&plain(host))
    }

    /// Whether a delivery to `address`, named by a URL, is forbidden.
    pub fn forbids(&self, address: IpAddr) -> bool {
        !self.permits(address) && !self.permits_name(&address.to_string())
    }

    /// Whether `url` names an address that is forbidden. Names are vetted when they are resolved.
    pub fn forbids_literal(&self, url: &Url) -> bool {
        literal(url).is_some_and(|address| self.forbids(address))
    }

    /// Whether `allow_targets` names the host of `url`, which may then be plain http.
    pub fn lets_through(&self, url: &Url) -> bool {
        match url.host() {
            Some(Host::Ipv4(v4)) => self.names(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => self.names(IpAddr::V6(v6)),
            Some(Host::Domain(name)) => self.permits_name(name) || (is_localhost(name) && self.names_loopback()),
            None => false,
        }
    }

    fn names(&self, address: IpAddr) -> bool {
        let embedded = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        };
        let named =
            |address: IpAddr| self.nets.iter().any(|net| net.contains(&address)) || self.permits_name(&address.to_string());
        named(address) || embedded.is_some_and(named)
    }

    fn names_loopback(&self) -> bool {
        self.names(IpAddr::V4(Ipv4Addr::LOCALHOST)) || self.names(IpAddr::V6(Ipv6Addr::LOCALHOST))
    }

    fn permits_v4(&self, address: Ipv4Addr) -> bool {
        !FORBIDDEN_V4.iter().any(|(net, length)| same_prefix_v4(address, *net, *length))
            || self.nets.iter().any(|net| net.contains(&IpAddr::V4(address)))
    }

    fn permits_v6(&self, address: Ipv6Addr) -> bool {
        let [a, b, c, d, e, f, g, h] = address.segments();
        match [a, b, c, d, e, f] {
            [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => self.permits_v4(embedded(g, h)),
            // IPv4-compatible addresses are deprecated: only for those who ask.
            [0, 0, 0, 0, 0, 0] => self.nets.iter().any(|net| net.contains(&IpAddr::V4(embedded(g, h)))) && g != 0,
            [0x2002, high, low, ..] => self.permits_v4(embedded(high, low)),
            [0x2001, 0, high, low, _, _] => self.permits_v4(embedded(high, low)) && self.permits_v4(embedded(!g, !h)),
            _ => {
                same_prefix_v6(address, GLOBAL_V6.0, GLOBAL_V6.1)
                    && !FORBIDDEN_V6.iter().any(|(net, length)| same_prefix_v6(address, *net, *length))
            }
        }
    }
}

/// The address that `url` names: literals, in whatever notation they were written, are addresses once a URL is parsed.
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
        Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
        Host::Domain(_) => None,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

fn same_prefix_v4(address: Ipv4Addr, net: Ipv4Addr, length: u32) -> bool {
    (address.to_bits() ^ net.to_bits()).leading_zeros() >= length
}

fn same_prefix_v6(address: Ipv6Addr, net: Ipv6Addr, length: u32) -> bool {
    (address.to_bits() ^ net.to_bits()).leading_zeros() >= length
}

/// A host name as it is compared: lower case, without the dot that makes it absolute.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn is_localhost(name: &str) -> bool {
    let name = plain(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowing(nets: &[&str]) -> AddressPolicy {
        AddressPolicy::new(&nets.iter().map(|net| AllowTarget::Net(net.parse().unwrap())).collect::<Vec<_>>())
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_public_addresses_are_permitted() {
        let policy = AddressPolicy::default();
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "2001:db8::1",
            "2001:2::1",
            "2001:10::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2001:0:7f00:1::",
            "2001:0:808:808::80ff:fffe",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!policy.permits(bad.parse().unwrap()), "{bad}");
        }
        for good in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860::8888",
        ] {
            assert!(policy.permits(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn allowed_networks_count_in_every_disguise() {
        let policy = allowing(&["10.0.0.0/8", "fd00::/8"]);
        for good in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1", "::10.1.2.3", "fd00::1"] {
            assert!(policy.permits(good.parse().unwrap()), "{good}");
        }
        for bad in ["127.0.0.1", "fe80::1", "::1", "192.168.0.1"] {
            assert!(!policy.permits(bad.parse().unwrap()), "{bad}");
        }
        assert!(!allowing(&["0.0.0.0/8"]).permits("::1".parse().unwrap()));
    }

    #[test]
    fn literals_are_known_in_every_notation() {
        let policy = AddressPolicy::default();
        for bad in [
            "http://127.0.0.1",
            "http://0x7f.1",
            "http://2130706433",
            "http://0177.0.0.1",
            "http://[::ffff:127.0.0.1]",
            "http://127.1.",
            "http://[::]",
            "http://0",
            "http://１２７.0.0.1",
        ] {
            assert!(policy.forbids_literal(&url(bad)), "{bad}");
            assert!(!allowing(&["0.0.0.0/0", "::/0"]).forbids_literal(&url(bad)), "{bad}");
        }
        assert!(!policy.forbids_literal(&url("http://localhost")) && !policy.forbids_literal(&url("http://8.8.8.8")));
    }

    #[test]
    fn what_is_named_may_be_plain_http() {
        let policy =
            AddressPolicy::new(&[AllowTarget::Host("n8n.Internal".into()), AllowTarget::Net("127.0.0.0/8".parse().unwrap())]);
        for good in [
            "http://N8N.internal./x",
            "http://localhost:80",
            "http://a.localhost.",
            "http://127.0.0.1",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(policy.lets_through(&url(good)), "{good}");
        }
        for bad in ["http://8.8.8.8", "http://internal", "http://evil.n8n.internal", "http://10.0.0.1"] {
            assert!(!policy.lets_through(&url(bad)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_judged_alike_in_every_disguise(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let policy = allowing(&["10.0.0.0/8"]);
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let expected = policy.permits(IpAddr::V4(v4));
            prop_assert_eq!(policy.permits(IpAddr::V6(v4.to_ipv6_mapped())), expected);
            prop_assert_eq!(policy.permits(IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low))), expected);
            prop_assert_eq!(policy.permits(IpAddr::V6(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1))), expected);
            prop_assert_eq!(expected, v4.octets()[0] == 10 || !(v4.is_private() || v4.is_loopback() || v4.is_link_local()
                || v4.is_multicast() || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified()) && expected);
        }

        #[test]
        fn outside_global_unicast_only_embedded_addresses_pass(bits: u128) {
            let v6 = Ipv6Addr::from_bits(bits);
            if AddressPolicy::default().permits(IpAddr::V6(v6)) {
                prop_assert!(v6.segments()[0] >> 13 == 1 || v6.to_ipv4_mapped().is_some() || v6.segments()[..2] == [0x64, 0xff9b]);
            }
        }
    }
}
