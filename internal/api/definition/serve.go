package definition

import (
	"log/slog"
	"net/http"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
)

// Settings are what the operator decides of each API of the family.
type Settings struct {
	MaxRequest        faas.Bytes   // body of a call; 0: no limit
	MaxResponse       faas.Bytes   // body of an answer; 0: no limit
	MaxResponseHeader faas.Bytes   // header of an answer; 0: no limit of this API
	Patterns          bool         // parameters and wildcards in sources are such, unless the app says otherwise
	Room              func() error // why nothing more may be kept on the disk; nil: never
	TokenKey          string       // of the tokens of management, which no function is to have; "": there are none
	NoInvoke          bool         // this node manages only: nothing can be called through it
}

// Serve answers with the errors of h as tell writes them, and with body what tell
// gives back: that is for the operator.
func Serve(h api.Handler, tell func(http.ResponseWriter, error) error, body api.FaultBody, log *slog.Logger) http.Handler {
	return api.Serve(func(w http.ResponseWriter, r *http.Request) error {
		waits := buffered.Waits(r) // calls drop the header
		err := h(w, r)
		if err == nil {
			return nil
		}
		if !waits {
			buffered.HearOut(w, r)
		}
		buffered.LimitReader(w, r)
		return tell(w, err)
	}, body, log)
}
