package memory

import (
	"context"

	"hob/faas"
)

// Trigger implements store.Definitions.
func (m *Store) Trigger(ctx context.Context, id string) (faas.Trigger, error) {
	return faas.Trigger{}, faas.Errorf(faas.NotFound, "no trigger with the ID %q", id)
}

// Triggers implements store.Definitions.
func (m *Store) Triggers(ctx context.Context, appID string) ([]faas.Trigger, error) {
	return nil, nil
}

// PutTrigger implements store.Definitions.
func (m *Store) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	return faas.Trigger{}, faas.Errorf(faas.Unsupported, "triggers are not kept yet")
}

// DeleteTrigger implements store.Definitions.
func (m *Store) DeleteTrigger(ctx context.Context, id string) error {
	return faas.Errorf(faas.NotFound, "no trigger with the ID %q", id)
}
