package sql

import "google.golang.org/protobuf/reflect/protoreflect"

// verdict is what a statement of one node type is, whatever it holds.
//
// What depends on its content (COPY's direction, SET's parameter) is decided in statement.go.
type verdict struct {
	words   []string
	kind    Kind
	unknown string // why it is always UNKNOWN
	writes  bool   // the relations that are fields of the node itself are changed
}

var (
	ddl         = verdict{words: []string{DDL}, writes: true}
	dcl         = verdict{words: []string{DCL}, writes: true}
	both        = verdict{words: []string{DDL, DCL}, writes: true} // who may do what, as an object
	maintenance = verdict{words: []string{Maintenance}, writes: true}
	session     = verdict{words: []string{Session}}
	part        = verdict{} // only inside another statement, which speaks for it
	never17     = verdict{unknown: "a node that PostgreSQL's grammar does not make of a text"}
)

// verdicts holds every node type of libpg_query 17 whose name ends in Stmt.
var verdicts = map[protoreflect.Name]verdict{
	"RawStmt": part,

	"SelectStmt":  {words: []string{Select}},
	"InsertStmt":  {words: []string{Insert}, writes: true},
	"UpdateStmt":  {words: []string{Update}, writes: true},
	"DeleteStmt":  {words: []string{Delete}, writes: true},
	"MergeStmt":   {words: []string{Merge, Select}, writes: true},
	"CopyStmt":    {kind: Copy},
	"CallStmt":    {words: []string{Call}, kind: CallProcedure},
	"DoStmt":      {words: []string{Do}, kind: DoBlock},
	"ExplainStmt": {kind: Explain},
	"PrepareStmt": {kind: Prepare},
	"ExecuteStmt": {kind: Execute, unknown: "what EXECUTE runs is not in the text"},

	"DeclareCursorStmt":  {kind: Declare},
	"FetchStmt":          {words: []string{Session}, kind: Fetch},
	"ClosePortalStmt":    {words: []string{Session}, kind: CloseCursor},
	"DeallocateStmt":     {words: []string{Session}, kind: Deallocate},
	"DiscardStmt":        {words: []string{Session}, kind: Discard},
	"TransactionStmt":    {kind: Transaction},
	"VariableSetStmt":    {kind: SetParameter},
	"VariableShowStmt":   {words: []string{Session}, kind: Show},
	"ConstraintsSetStmt": session,

	"TruncateStmt": {words: []string{Truncate}, writes: true},
	"LockStmt":     {words: []string{Lock}},
	"ListenStmt":   {words: []string{Listen}},
	"UnlistenStmt": {words: []string{Listen}},
	"NotifyStmt":   {words: []string{Notify}},
	"LoadStmt":     {unknown: "LOAD runs a file of the server"},

	"VacuumStmt":                   maintenance,
	"ClusterStmt":                  maintenance,
	"ReindexStmt":                  maintenance,
	"CheckPointStmt":               maintenance,
	"RefreshMatViewStmt":           maintenance,
	"AlterDatabaseRefreshCollStmt": maintenance,

	"GrantStmt":                  dcl,
	"GrantRoleStmt":              dcl,
	"AlterDefaultPrivilegesStmt": dcl,
	"CreateRoleStmt":             dcl,
	"AlterRoleStmt":              dcl,
	"AlterRoleSetStmt":           dcl,
	"DropRoleStmt":               dcl,
	"ReassignOwnedStmt":          dcl,
	"AlterSystemStmt":            dcl,

	"DropOwnedStmt":         both,
	"AlterOwnerStmt":        both,
	"CreatePolicyStmt":      both,
	"AlterPolicyStmt":       both,
	"SecLabelStmt":          both,
	"CreateUserMappingStmt": both,
	"AlterUserMappingStmt":  both,
	"DropUserMappingStmt":   both,

	"CreatePublicationStmt":  {words: []string{DDL, Replication}},
	"AlterPublicationStmt":   {words: []string{DDL, Replication}},
	"CreateSubscriptionStmt": {words: []string{DDL, Replication}},
	"AlterSubscriptionStmt":  {words: []string{DDL, Replication}},
	"DropSubscriptionStmt":   {words: []string{DDL, Replication}},

	"AlterCollationStmt":         ddl,
	"AlterDatabaseSetStmt":       ddl,
	"AlterDatabaseStmt":          ddl,
	"AlterDomainStmt":            ddl,
	"AlterEnumStmt":              ddl,
	"AlterEventTrigStmt":         ddl,
	"AlterExtensionContentsStmt": ddl,
	"AlterExtensionStmt":         ddl,
	"AlterFdwStmt":               ddl,
	"AlterForeignServerStmt":     ddl,
	"AlterFunctionStmt":          ddl,
	"AlterObjectDependsStmt":     ddl,
	"AlterObjectSchemaStmt":      ddl,
	"AlterOpFamilyStmt":          ddl,
	"AlterOperatorStmt":          ddl,
	"AlterSeqStmt":               ddl,
	"AlterStatsStmt":             ddl,
	"AlterTSConfigurationStmt":   ddl,
	"AlterTSDictionaryStmt":      ddl,
	"AlterTableMoveAllStmt":      ddl,
	"AlterTableSpaceOptionsStmt": ddl,
	"AlterTableStmt":             ddl,
	"AlterTypeStmt":              ddl,
	"CommentStmt":                ddl,
	"CompositeTypeStmt":          ddl,
	"CreateAmStmt":               ddl,
	"CreateCastStmt":             ddl,
	"CreateConversionStmt":       ddl,
	"CreateDomainStmt":           ddl,
	"CreateEnumStmt":             ddl,
	"CreateEventTrigStmt":        ddl,
	"CreateExtensionStmt":        ddl,
	"CreateFdwStmt":              ddl,
	"CreateForeignServerStmt":    ddl,
	"CreateForeignTableStmt":     ddl,
	"CreateFunctionStmt":         ddl,
	"CreateOpClassStmt":          ddl,
	"CreateOpFamilyStmt":         ddl,
	"CreatePLangStmt":            ddl,
	"CreateRangeStmt":            ddl,
	"CreateSchemaStmt":           ddl,
	"CreateSeqStmt":              ddl,
	"CreateStatsStmt":            ddl,
	"CreateStmt":                 ddl,
	"CreateTableAsStmt":          ddl,
	"CreateTableSpaceStmt":       ddl,
	"CreateTransformStmt":        ddl,
	"CreateTrigStmt":             ddl,
	"CreatedbStmt":               ddl,
	"DefineStmt":                 ddl,
	"DropStmt":                   ddl,
	"DropTableSpaceStmt":         ddl,
	"DropdbStmt":                 ddl,
	"ImportForeignSchemaStmt":    ddl,
	"IndexStmt":                  ddl,
	"RenameStmt":                 ddl,
	"RuleStmt":                   ddl,
	"ViewStmt":                   ddl,

	"ReplicaIdentityStmt": part, // of ALTER TABLE
	"ReturnStmt":          part, // of CREATE FUNCTION

	"PLAssignStmt":     never17, // PL/pgSQL's own
	"SetOperationStmt": never17, // made by the analysis that follows parsing
}

// parts holds the other node types that PostgreSQL 17's grammar makes; the rest of libpg_query's are made later, by analysis and planning.
//
// Source: src/backend/parser/gram.y.
var parts = map[protoreflect.Name]bool{
	"Node": true, "List": true, "Integer": true, "Float": true, "Boolean": true, "String": true, "BitString": true, "A_Const": true,
	"Alias": true, "RangeVar": true, "IntoClause": true, "RoleSpec": true, "TypeName": true, "ColumnRef": true, "ParamRef": true,
	"A_Expr": true, "A_Star": true, "A_Indices": true, "A_Indirection": true, "A_ArrayExpr": true, "TypeCast": true,
	"CollateClause": true, "FuncCall": true, "ResTarget": true, "MultiAssignRef": true, "SortBy": true, "WindowDef": true,
	"RangeSubselect": true, "RangeFunction": true, "RangeTableFunc": true, "RangeTableFuncCol": true, "RangeTableSample": true,
	"ColumnDef": true, "TableLikeClause": true, "IndexElem": true, "DefElem": true, "LockingClause": true, "XmlSerialize": true,
	"PartitionElem": true, "PartitionSpec": true, "PartitionBoundSpec": true, "PartitionRangeDatum": true, "PartitionCmd": true,
	"GroupingSet": true, "WithClause": true, "InferClause": true, "OnConflictClause": true, "CTESearchClause": true, "CTECycleClause": true,
	"CommonTableExpr": true, "MergeWhenClause": true, "TriggerTransition": true, "JoinExpr": true, "SubLink": true, "BoolExpr": true,
	"CaseExpr": true, "CaseWhen": true, "RowExpr": true, "CoalesceExpr": true, "MinMaxExpr": true, "NullTest": true, "BooleanTest": true,
	"SQLValueFunction": true, "XmlExpr": true, "NamedArgExpr": true, "GroupingFunc": true, "MergeSupportFunc": true, "SetToDefault": true,
	"CurrentOfExpr": true, "Constraint": true, "AlterTableCmd": true, "ObjectWithArgs": true, "AccessPriv": true, "CreateOpClassItem": true,
	"StatsElem": true, "FunctionParameter": true, "VacuumRelation": true, "PublicationTable": true, "PublicationObjSpec": true,
	"JsonFormat": true, "JsonReturning": true, "JsonValueExpr": true, "JsonIsPredicate": true, "JsonBehavior": true, "JsonOutput": true,
	"JsonArgument": true, "JsonFuncExpr": true, "JsonTablePathSpec": true, "JsonTable": true, "JsonTableColumn": true, "JsonKeyValue": true,
	"JsonParseExpr": true, "JsonScalarExpr": true, "JsonSerializeExpr": true, "JsonObjectConstructor": true, "JsonArrayConstructor": true,
	"JsonArrayQueryConstructor": true, "JsonAggConstructor": true, "JsonObjectAgg": true, "JsonArrayAgg": true,
}
