package sandbox

import (
	"hash/fnv"
	"io"
)

// IDs is how many users and groups a sandbox has, from 0 on.
const IDs = 1 << 16

// Scatter returns a number that differs from generation to generation, in its upper half
// and in its lower one. Two daemons on one machine, as in an upgrade, take the machine's
// users for their sandboxes from there on, so as to have hardly any in common. It is for drivers.
func Scatter(generation string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, generation)
	return h.Sum64()
}
