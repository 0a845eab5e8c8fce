package linux

// auditArch is AUDIT_ARCH_AARCH64: the calling convention the filter is for.
const auditArch = 0xc00000b7

// allowedHere lists the system calls that are allowed besides allowedEverywhere.
var allowedHere []uint32
