package fnv2

import "net/http"

func (s *Server) listApps(_ http.ResponseWriter, r *http.Request) error        { return pathNotFound(r) }
func (s *Server) createApp(_ http.ResponseWriter, r *http.Request) error       { return pathNotFound(r) }
func (s *Server) getApp(_ http.ResponseWriter, r *http.Request) error          { return pathNotFound(r) }
func (s *Server) updateApp(_ http.ResponseWriter, r *http.Request) error       { return pathNotFound(r) }
func (s *Server) deleteApp(_ http.ResponseWriter, r *http.Request) error       { return pathNotFound(r) }
func (s *Server) listFns(_ http.ResponseWriter, r *http.Request) error         { return pathNotFound(r) }
func (s *Server) createFn(_ http.ResponseWriter, r *http.Request) error        { return pathNotFound(r) }
func (s *Server) getFn(_ http.ResponseWriter, r *http.Request) error           { return pathNotFound(r) }
func (s *Server) updateFn(_ http.ResponseWriter, r *http.Request) error        { return pathNotFound(r) }
func (s *Server) deleteFn(_ http.ResponseWriter, r *http.Request) error        { return pathNotFound(r) }
func (s *Server) listTriggers(_ http.ResponseWriter, r *http.Request) error    { return pathNotFound(r) }
func (s *Server) createTrigger(_ http.ResponseWriter, r *http.Request) error   { return pathNotFound(r) }
func (s *Server) getTrigger(_ http.ResponseWriter, r *http.Request) error      { return pathNotFound(r) }
func (s *Server) updateTrigger(_ http.ResponseWriter, r *http.Request) error   { return pathNotFound(r) }
func (s *Server) deleteTrigger(_ http.ResponseWriter, r *http.Request) error   { return pathNotFound(r) }
func (s *Server) triggerBySource(_ http.ResponseWriter, r *http.Request) error { return pathNotFound(r) }
func (s *Server) listCalls(_ http.ResponseWriter, r *http.Request) error       { return pathNotFound(r) }
func (s *Server) getCall(_ http.ResponseWriter, r *http.Request) error         { return pathNotFound(r) }
func (s *Server) getCallLog(_ http.ResponseWriter, r *http.Request) error      { return pathNotFound(r) }
