package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/internal/policy"
)

func TestNodeStatusFitsWhateverTenantsMake(t *testing.T) {
	many := func(n, bytes int) []string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf("%06d%s", i, strings.Repeat("ä", bytes/2))
		}
		return all
	}
	var state policy.NodeState
	reasons, rejection := many(21, 1100), many(1, 4200)[0]
	addresses, missing, columns := many(1100, 10), many(101, 1100), many(1100, 10)
	for i := range 1100 {
		name := fmt.Sprintf("%063d", i)
		state.NotEnforceable = append(state.NotEnforceable, policy.NodePod{Namespace: name, Name: name, Reasons: reasons})
		state.Rejected = append(state.Rejected, policy.NodeRejection{Object: "Target/" + name, Reason: rejection})
	}
	for i := range 1000 {
		name := fmt.Sprintf("%063d", i)
		one, access := policy.NodeTarget{Name: name, LoginError: rejection}, policy.NodePolicy{Name: name, Pods: 1}
		if i%100 == 0 {
			one.Addresses, one.Missing, one.SensitiveFound, access.Missing = addresses, missing, columns, missing
		}
		state.Targets, state.Policies = append(state.Targets, one), append(state.Policies, access)
	}
	got := fit(state)
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > maxStatusBytes || len(got.Targets) != 1000 || len(got.Policies) != 1000 {
		t.Errorf("got %d bytes with %d Targets and %d policies, want all of them in at most %d", len(text), len(got.Targets), len(got.Policies), maxStatusBytes)
	}
	if len(state.Targets[0].Addresses) != 1100 {
		t.Error("got the status itself cut, want it as it was")
	}
}

func TestNodeStatusOfUsualSizeIsCutToItsSchemaOnly(t *testing.T) {
	state := policy.NodeState{
		NotEnforceable: []policy.NodePod{{Namespace: "agents", Name: "a", Reasons: slices.Repeat([]string{"hostPID"}, 30)}},
		Targets:        []policy.NodeTarget{{Name: "db", Addresses: []string{"10.0.0.1:5432"}, LoginError: strings.Repeat("x", 2000)}},
	}
	got := fit(state)
	if len(got.NotEnforceable[0].Reasons) != maxStatusReasons || len(got.Targets[0].Addresses) != 1 || len(got.Targets[0].LoginError) > maxStatusReason {
		t.Errorf("got %+v, want what the schema takes of it", got)
	}
}
