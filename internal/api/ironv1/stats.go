package ironv1

import (
	"net/http"

	"hob/internal/api"
)

func (s *Server) statsRoutes(all *api.Routes) {
	all.Add(http.MethodGet, "/stats", s.stats)
}

// stats counts the calls of this node: those that wait for a sandbox or an outside
// runner, those that run, and those that have ended since the daemon began.
func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	n, err := s.Tasks.Counts(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct{ Queue, Running, Complete int64 }{int64(n.Waiting), int64(n.Running), n.Ended})
}
