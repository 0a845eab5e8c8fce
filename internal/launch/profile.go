package launch

import (
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// A Profile is what an operator decides for all functions of a faas.Profile on a
// node. The zero value leaves everything to the function and the driver, but that
// their images may not ask for volumes.
type Profile struct {
	Limits       sandbox.Limits
	StartTimeout time.Duration // of functions that have faas.DefaultStartTimeout; 0: that
	MaxFS        faas.Bytes    // of /tmp, or of a writable root; 0: no limit but that of the function
	Writable     bool          // the root is a private writable one
	ImageUser    bool          // the user is that of the image, whatever the function says
	Volumes      bool          // the image may ask for volumes
}

// over lays p over what fn says.
func (p Profile) over(fn faas.Function) faas.Function {
	if p.StartTimeout > 0 && fn.StartTimeout == faas.DefaultStartTimeout {
		fn.StartTimeout = p.StartTimeout
	}
	if p.MaxFS > 0 {
		fn.TmpSize = min(fn.TmpSize, p.MaxFS)
	}
	fn.Writable = fn.Writable || p.Writable
	if p.ImageUser {
		fn.User = ""
	}
	return fn
}
