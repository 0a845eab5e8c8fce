package sqlite

// FailFiles has fail asked before each operation on a body's file.
func (s *Store) FailFiles(fail func(operation string) error) { s.bodies.fail = fail }

// Migrations are the steps of the schema.
func Migrations() []string { return migrations() }
