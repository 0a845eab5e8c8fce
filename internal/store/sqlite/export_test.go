package sqlite

// FailFiles has fail asked before each operation on a body's file.
func (s *Store) FailFiles(fail func(operation string) error) { s.bodies.fail = fail }

// Migrations are the steps of the schema.
func Migrations() []string { return migrations() }

// Queries are the statements that were prepared so far.
func (s *Store) Queries() map[string]bool {
	queries := make(map[string]bool)
	add := func(d *db) {
		for query := range d.statements {
			queries[query] = true
		}
	}
	add(s.w)
	for range readers {
		d := <-s.pool
		add(d)
		defer func() { s.pool <- d }()
	}
	return queries
}
