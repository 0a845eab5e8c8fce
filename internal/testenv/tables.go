package testenv

import (
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
	sockets, _ := os.ReadFile("/proc/thread-self/net/unix")
	others := map[string]bool{}
	for line := range strings.Lines(string(sockets)) {
		// 00000000: 00000002 00000000 00000000 0001 01 32951784 @hob-…
		if f := strings.Fields(line); len(f) == 8 && !slices.Contains(Descriptors(), "socket:["+f[6]+"]") {
			others[strings.TrimPrefix(f[7], "@")] = true
		}
	}
	for _, t := range all {
		if strings.HasPrefix(t.Name, "hob-") && counts(t.Name) && (living || !others[t.Name]) {
			found = append(found, "packet filter table "+t.Name)
		}
	}
	return found
}
