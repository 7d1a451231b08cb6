// Package archtest holds the project's layout rules as data and tests the
// packages against them: who may import whom, and which third party is used
// where. It has no code of its own outside its tests.
package archtest
