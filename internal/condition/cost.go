package condition

import "cel.dev/cel-go/common/cost"

// What the worst event holds, for the estimate made when a condition is stored: maxElements in a list, an object or a text,
// and what the lists within a list have to share, the bytes of an event, in each of theirs. A text or a list of small
// elements may be larger than that; then the limit on each evaluation stands.
const (
	eventBytes  = 1 << 20
	maxElements = 10_000
)

// bounds tells the estimator how large the parts of an event may be.
type bounds struct{}

// EstimateSize bounds what is read from the event by how many lists or objects it is walked through to get there.
func (bounds) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if node.ComputedSize() != nil {
		return nil
	}
	most, shared := uint64(maxElements), uint64(eventBytes)
	for _, step := range node.Path() {
		if step == "@items" || step == "@keys" || step == "@values" {
			shared = max(shared/most, 1)
			most = min(most, shared)
		}
	}
	return &cost.SizeEstimate{Max: most}
}

// EstimateCallCost leaves the costs of functions to CEL.
func (bounds) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
