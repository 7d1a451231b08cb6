package postgres

// snapshot is what the catalog held at one moment. It does not change.
type snapshot struct {
	missing []string
}

// clear tells that the database has no sensitive column: nothing in it is masked or refused.
func (s *snapshot) clear() bool { return false }

// sensitive gives the names of a relation's sensitive columns.
//
// Shape: names as the parser folds them; schema is "" where the text gives none, and then every relation of that name counts.
func (s *snapshot) sensitive(schema, name string) []string {
	_, _ = schema, name
	return nil
}

// known tells whether there is such a relation, in any schema where schema is "".
func (s *snapshot) known(schema, name string) bool {
	_, _ = schema, name
	return false
}
