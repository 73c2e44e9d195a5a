// Package fleet looks at all pagers of one data directory together: which versions
// there are, which of them has a session, which one new sessions go to, and how
// sessions get from one version to another.
//
// It is what the instance manager and the command line have in common; an
// orchestrator with a pager of its own can use it in the same way. It keeps nothing
// in memory. What it knows is on disk or asked of the pagers:
//
//	{data_dir}/uffd/chosen.json              the version that new sessions go to; see Choose
//	{data_dir}/uffd/<version>/control.sock   where a pager answers
//	{data_dir}/uffd/<version>/sessions/<id>/ the journal of a session, which says whose it is
//
// A handover moves the journal by rename. So the journals tell at any moment which
// version has a session, also when no pager runs.
//
// The package writes chosen.json and nothing else, and holds no locks. It starts no
// pagers: who calls it says how.
package fleet
