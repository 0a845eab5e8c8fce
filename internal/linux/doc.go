// Package linux is the only package of hob that makes Linux system calls of its
// own: starting a process into namespaces without a Go runtime in it (Program,
// Thread), mounts, cgroups of both versions, seccomp filters, user and network
// namespaces, pidfds, and probes of what this kernel can do.
//
// It is about Linux and not about functions: it knows no image, no call and no
// policy, imports nothing else of hob, and its errors are plain errors that name
// the step and the errno. Who may do what to whom is decided by its callers.
package linux
