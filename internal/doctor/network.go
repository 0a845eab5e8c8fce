package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"hob/faas"
)

// networkNeed is what the filter of functions is made of, as options of the kernel.
const networkNeed = "CONFIG_VETH, CONFIG_NF_TABLES_INET, CONFIG_NF_NAT, CONFIG_NF_CONNTRACK_MARK, CONFIG_NF_CT_NETLINK, CONFIG_NETFILTER_NETLINK_LOG, " +
	"and CONFIG_NFT_ and each of CT, LIMIT, CONNLIMIT, HASH, LOG, REJECT, NAT, MASQ"

// networks looks at what functions need to reach the internet.
func (m Machine) networks(a Answers, servers []netip.Addr) []Check {
	return []Check{m.network(a), m.bandwidth(a), m.forwarding(), m.forwarding6(), m.firewall(a), m.nameServers(a, servers)}
}

func (m Machine) network(a Answers) Check {
	c := Check{Name: "network", OK: a.Network == nil, Found: "functions can have one of their own",
		Fatal: m.Offer.Network != string(faas.NetworkNone),
		Need:  "network namespaces, pairs of devices (veth) and the packet filter nftables, for networks of functions",
		Fix:   "modprobe -a veth nf_tables; a kernel with " + networkNeed + "; in a container: --privileged; or the setting network=none, with which functions do without"}
	if !c.OK {
		c.Found = fmt.Sprintf("none can be made for a function: %v", a.Network)
	}
	if !c.OK && !m.root().OK {
		c.Fatal, c.Found, c.Fix = false, "only root can find out", "sudo hob doctor"
	}
	return c
}

func (m Machine) bandwidth(a Answers) Check {
	c := Check{Name: "bandwidth", OK: a.Bandwidth == nil, Found: "of functions can be limited",
		Fatal: m.Offer.Bandwidth != 0,
		Need:  "the queue tbf of the kernel, for the setting network-bandwidth",
		Fix:   "modprobe sch_tbf; a kernel with CONFIG_NET_SCH_TBF; or the setting network-bandwidth=0"}
	if !c.OK {
		c.Found = fmt.Sprintf("of functions cannot be limited: %v", a.Bandwidth)
	}
	return c
}

func (m Machine) forwarding() Check {
	c := Check{Name: "forwarding", OK: true, Found: "of IPv4 is on",
		Fatal: m.Offer.Network != string(faas.NetworkNone),
		Need:  "settings below /proc/sys/net that can be written: what functions send has to be forwarded",
		Fix:   "mount -o remount,rw /proc/sys; in a container: --privileged"}
	switch on := strings.TrimSpace(m.read("proc/sys/net/ipv4/conf/all/forwarding")); {
	case m.mountOf("/proc/sys/net").readOnly:
		c.OK, c.Found = false, "/proc/sys is read-only"
	case on == "":
		c.OK, c.Found = false, "the kernel has no setting net.ipv4.conf.all.forwarding"
		c.Fix = "a kernel with CONFIG_INET and CONFIG_SYSCTL"
	case on == "0":
		c.Found = "of IPv4 is off: hob serve switches it on, for devices with routes and what functions send alone"
	}
	return c
}

// eachForwards is the first kernel with a switch of IPv6 forwarding for each device.
var eachForwards = version{6, 17}

func (m Machine) forwarding6() Check {
	c := Check{Name: "IPv6", OK: true, Found: "is forwarded",
		Need: "Linux " + eachForwards.String() + " or newer, where a single device can forward IPv6; functions reach IPv4 addresses only",
		Fix: "sysctl net.ipv6.conf.all.forwarding=1; where the machine has its address from router advertisements, " +
			"sysctl net.ipv6.conf.DEVICE.accept_ra=2 before it"}
	switch on := strings.TrimSpace(m.read("proc/sys/net/ipv6/conf/all/forwarding")); {
	case on == "":
		c.Found = "is not in this kernel, or turned off: functions reach IPv4 addresses only"
	case on != "0":
	case m.exists("proc/sys/net/ipv6/conf/default/force_forwarding"):
		c.Found = "is not forwarded: hob serve switches it on, for devices with routes and what functions send alone"
	case !m.reaches6():
		c.Found = "has no route to the internet on this machine: functions reach IPv4 addresses only"
	default:
		c.OK, c.Found = false, "is not forwarded, and this kernel can only switch it on for the whole machine"
	}
	return c
}

// reaches6 reports whether there is a default route of IPv6.
func (m Machine) reaches6() bool {
	for line := range strings.Lines(m.read("proc/net/ipv6_route")) {
		f := strings.Fields(line) // destination, its length, source, its length, gateway, metric, …, device
		if len(f) >= 10 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			return true
		}
	}
	return false
}

func (m Machine) firewall(a Answers) Check {
	c := Check{Name: "firewall", OK: true, Found: "none that nftables knows is in the way of functions",
		Need: "that what functions send through the device hob-… is forwarded"}
	legacy := strings.Fields(m.read("proc/net/ip_tables_names") + " " + m.read("proc/net/ip6_tables_names"))
	switch {
	case a.Filter != nil && !m.root().OK:
		c.OK, c.Found, c.Fix = false, "only root can find out", "sudo hob doctor"
	case a.Filter != nil:
		c.OK, c.Found, c.Fix = false, fmt.Sprintf("the rules of this machine cannot be listed: %v", a.Filter), "what the network needs"
	case slices.Contains(legacy, "filter"):
		c.OK, c.Found = false, "rules of the old iptables are in use, which hob can neither read nor add to"
		c.Fix = "if iptables-legacy -S FORWARD says -P FORWARD DROP: iptables-legacy -I FORWARD -i hob-+ -j ACCEPT; " +
			"iptables-legacy -I FORWARD -o hob-+ -j ACCEPT; the same with ip6tables-legacy. Or change to iptables-nft"
	case a.Firewalld:
		c.Found = "firewalld: it has to forward between the default zone, in which devices hob-… are, and that of the internet " +
			"(one zone is enough; else firewall-cmd --zone=ZONE --add-interface=hob-+)"
	case len(a.Drops) > 0:
		c.Found = "drops what no rule knows in " + strings.Join(a.Drops, ", ") + ": hob serve adds its device there, and takes it out again"
	}
	return c
}

// servers are the name servers of this machine, as many as functions are served from.
func (m Machine) servers() (all []netip.Addr) {
	for line := range strings.Lines(m.read("etc/resolv.conf")) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" || len(all) == 3 {
			continue
		}
		if server, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, server)
		}
	}
	return all
}

func (m Machine) nameServers(a Answers, servers []netip.Addr) Check {
	c := Check{Name: "name server", OK: len(a.Names) > 0, Found: join(a.Names) + " answers",
		Need: "a name server that answers this machine, from which hob answers functions",
		Fix:  "put a line such as \"nameserver 192.168.1.1\" into /etc/resolv.conf, and see that UDP to its port 53 gets through"}
	switch {
	case len(servers) == 0:
		c.OK, c.Found = false, "/etc/resolv.conf names none"
	case !c.OK:
		c.Found = join(servers) + " of /etc/resolv.conf does not answer"
	}
	return c
}

func join(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

func landlock(a Answers) Check {
	return Check{Name: "landlock", OK: a.Landlock, Found: map[bool]string{
		true:  "functions are fenced in, beside what namespaces do",
		false: "the kernel has none that is turned on, or an old one",
	}[a.Landlock],
		Need: "Landlock of Linux 5.19 or newer, a second wall around the files of a function",
		Fix:  "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in the list lsm= that it boots with (see /sys/kernel/security/lsm)"}
}
