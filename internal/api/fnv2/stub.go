package fnv2

import "net/http"

// What is not written yet.

func (s *Server) invoke(_ http.ResponseWriter, r *http.Request) error  { return pathNotFound(r) }
func (s *Server) trigger(_ http.ResponseWriter, r *http.Request) error { return pathNotFound(r) }
