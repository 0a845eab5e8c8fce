package ironv1

import (
	"net/http"

	"hob/internal/api"
)

// WriteRefusal is the api.FaultBody for what is kept from this API. Who has no good
// token is told so with a string for an error, as IronFunctions does, and not why.
func WriteRefusal(w http.ResponseWriter, f api.Fault) {
	if f.Status != http.StatusUnauthorized {
		WriteFault(w, f)
		return
	}
	_ = answer(w, f.Status, struct {
		Error string `json:"error"`
	}{"Invalid API Authorization token."})
}
