package definition

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"time"

	"hob/faas"
)

// updates is how often a change is tried that others overtake.
const updates = 200

// Update changes a definition: it reads, merges and puts it, and does so again when
// somebody was quicker, so that no merge is lost. What merge leaves as it is stays at
// its revision. A Conflict of put is one with the stored revision,
// unless it is a hostTaken.
func Update[T any](ctx context.Context, read func() (T, error), merge, put func(T) (T, error)) (T, error) {
	for try := 1; ; try++ {
		old, err := read()
		if err != nil {
			return old, err
		}
		next, err := merge(old)
		if err != nil || reflect.DeepEqual(old, next) {
			return next, err
		}
		next, err = put(next)
		if _, taken := errors.AsType[hostTaken](err); taken || faas.KindOf(err) != faas.Conflict || try == updates {
			return next, err
		}
		select { // others shall not come all at once again
		case <-time.After(rand.N(time.Duration(min(try, 16)) * time.Millisecond)):
		case <-ctx.Done():
			return next, context.Cause(ctx)
		}
	}
}
