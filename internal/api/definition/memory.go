package definition

import (
	"strconv"

	"hob/faas"
)

// Limits of a function.
const (
	MaxMemory = 8192 // MB
	MaxIdle   = 3600 // seconds
)

// beside is the name under which a function keeps its memory in MB, if that is less
// than a sandbox can have.
const beside = "fn"

// SetMemory gives fn so many MB, and its /tmp as much if that had all of it before.
func SetMemory(fn *faas.Function, mb uint64) {
	old := fn.Memory
	fn.Memory = max(faas.Bytes(mb)*faas.MB, faas.MinMemory)
	if fn.TmpSize == old { // as these APIs have made it
		fn.TmpSize = fn.Memory
	}
	fn.TmpSize = min(fn.TmpSize, fn.Memory)
	kept := ""
	if faas.Bytes(mb)*faas.MB < faas.MinMemory {
		kept = strconv.FormatUint(mb, 10)
	}
	fn.Beside = MergedConfig(fn.Beside, map[string]string{beside: kept})
}

// MemoryOf is the memory of fn in MB, as it was given.
func MemoryOf(fn faas.Function) uint64 {
	if mb, err := strconv.ParseUint(fn.Beside[beside], 10, 32); err == nil && fn.Memory == faas.MinMemory {
		return mb
	}
	return uint64((fn.Memory + faas.MB - 1) / faas.MB)
}
