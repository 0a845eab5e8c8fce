package testenv

import (
	"net"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// tables lists the packet filter's tables of functions' networks in this network that no
// living process has but perhaps this one; with living, all. A network that lives
// has its name as an abstract Unix socket.
func tables(counts func(name string) bool, living bool) (found []string) {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	all, _ := conn.ListTablesOfFamily(nftables.TableFamilyINet) // none without root
	if !slices.ContainsFunc(all, func(t *nftables.Table) bool { return strings.HasPrefix(t.Name, "hob-") }) {
		return nil
	}
	others := othersNames()
	for _, t := range all {
		if strings.HasPrefix(t.Name, "hob-") && counts(t.Name) && (living || !others[t.Name]) {
			found = append(found, "packet filter table "+t.Name)
		}
	}
	return found
}

// devices lists the network devices in this network that no living process has but perhaps
// this one: that of a functions' network has its name, too. With living, all.
func devices(counts func(name string) bool, living bool) (found []string) {
	all, _ := net.Interfaces()
	others := othersNames()
	for _, dev := range all {
		if counts(dev.Name) && (living || !others[dev.Name]) {
			found = append(found, "network device "+dev.Name)
		}
	}
	return found
}

// othersNames has the abstract Unix sockets in this network that are not this process's.
func othersNames() map[string]bool {
	own := Descriptors()
	sockets, _ := os.ReadFile("/proc/thread-self/net/unix")
	others := map[string]bool{}
	for line := range strings.Lines(string(sockets)) {
		// 00000000: 00000002 00000000 00000000 0001 01 32951784 @hob-…
		if f := strings.Fields(line); len(f) == 8 && !slices.Contains(own, "socket:["+f[6]+"]") {
			others[strings.TrimPrefix(f[7], "@")] = true
		}
	}
	return others
}
