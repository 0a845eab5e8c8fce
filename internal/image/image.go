// Package image turns a reference into a root filesystem on this node: it owns
// references, pull, load, the choice of the platform, the node's list of
// images and their garbage collection.
//
// Blobs are kept by package content, unpacked layers by package layer; running
// what is in an image is for others.
package image

import (
	"time"

	"hob/faas"
)

// Image is one image on this node, for this node's platform.
type Image struct {
	Refs     []string   // references that mean it, as Reference.String writes them, sorted; none if its names have moved on
	Digest   string     // "sha256:…" of the manifest for this platform
	Index    string     // digest of the manifest list it was chosen from; "": it came without one
	Platform string     // "linux/amd64"
	Size     faas.Bytes // on disk, compressed blobs and unpacked layers; what it shares with other images is counted in each
	Created  time.Time  // as its maker says; zero if not said
	Pulled   time.Time  // when it came to this node
	Used     time.Time  // when it was last pulled, or a root filesystem made of it; after a crash an earlier time
	Config   ImageConfig
	Layers   []LayerInfo // the lowest first
}

// LayerInfo is one layer of an image.
type LayerInfo struct {
	Digest    string // of the blob
	DiffID    string // of the uncompressed tar
	MediaType string
	Size      faas.Bytes // of the blob
	Unpacked  faas.Bytes
}

// ImageConfig is how an image wants to be run.
type ImageConfig struct {
	Entrypoint   []string
	Command      []string
	Env          []string // "NAME=value"
	Workdir      string   // "": "/"
	User         string   // "name", "uid", either with ":group"; "": not said
	Volumes      []string // absolute paths, sorted
	Labels       map[string]string
	ExposedPorts []string // "8080/tcp", sorted
	StopSignal   string
}

// RootFS is an image ready to be a root filesystem. Its layers stay on disk
// until Release.
type RootFS struct {
	Digest string   // of the image
	Key    string   // names the content: equal keys have equal layers
	Layers []string // unpacked layers as absolute directories, the topmost first; at least one
	Config ImageConfig

	release  func()
	accounts *accounts // of the image
}

// Auth is what a registry is told about who pulls. Token is a bearer token for
// the registry itself; with it, the other two are not used.
type Auth struct {
	Username, Password string
	Token              string
}

// Policy says when a pull asks the registry.
type Policy string

const (
	PullMissing Policy = "missing" // only if the reference is not on this node; the default
	PullAlways  Policy = "always"  // every time; blobs that are here are not fetched again
	PullNever   Policy = "never"   // NotFound if the reference is not on this node
)

// PullOptions are the choices of one pull. The zero value pulls what is missing
// with the credentials of the node.
type PullOptions struct {
	Policy      Policy
	Credentials *Auth // nil: those of the node
	Owner       Owner
	Progress    func(Progress) // called in the goroutine of Pull with each change, not more than about ten times a second; may be nil
}

// Owner is on whose behalf registries are asked: what Config.Dial decides by. The zero
// Owner is anybody.
type Owner struct {
	App, Function faas.Reach // that the image is for
	Operator      bool       // who has this machine: the registry of the reference may be anywhere, though not what it leads to
}

// Progress is how far a pull or load is.
type Progress struct {
	Done, Total faas.Bytes // of all layers, compressed; Total 0: not known yet
	Layers      []LayerProgress
}

// LayerProgress is how far one layer is.
type LayerProgress struct {
	Digest      string
	State       LayerState
	Done, Total faas.Bytes
}

// LayerState is what is being done with a layer.
type LayerState string

const (
	LayerWaiting   LayerState = "waiting"
	LayerFetching  LayerState = "fetching"
	LayerUnpacking LayerState = "unpacking"
	LayerDone      LayerState = "done"
)
