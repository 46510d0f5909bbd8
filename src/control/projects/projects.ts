import type { OrganisationRole, ProjectRole } from '../../api/control/permissions.ts'
import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'

export interface OrganisationRow {
  readonly id: string
  readonly name: string
  readonly title: string
  readonly version: number
  readonly created_at: number
  readonly updated_at: number
}

export interface ProjectRow extends OrganisationRow {
  readonly organisation_id: string
}

interface MemberRow {
  readonly person_id: string
  readonly since: number
}

export interface Tables {
  organisations: OrganisationRow
  projects: ProjectRow
  organisation_members: MemberRow & { organisation_id: string; role: OrganisationRole }
  project_members: MemberRow & { project_id: string; role: ProjectRole }
  people: { id: string; email: string; name: string }
}

export interface Member<Role> {
  readonly person: string
  readonly email: string
  readonly name: string
  readonly role: Role
  readonly since: number
}

/** Undefined when the name is taken. Its maker owns it. */
export async function addOrganisation(
  store: Store,
  { name, title, owner }: { name: string; title: string; owner: string },
): Promise<OrganisationRow | undefined> {
  return await store.transaction(async () => {
    const row = { id: store.ids.next('org'), name, title, ...born(store) }
    const inserted = await store
      .db<Tables>()
      .insertInto('organisations')
      .values(row)
      .onConflict((conflict) => conflict.doNothing())
      .returningAll()
      .executeTakeFirst()
    if (inserted !== undefined) await setOrganisationMember(store, inserted.id, owner, 'owner')
    return inserted
  })
}

/** Undefined when the name is taken. Its maker is its admin. */
export async function addProject(
  store: Store,
  { name, title, organisation, admin }: { name: string; title: string; organisation: string; admin: string },
): Promise<ProjectRow | undefined> {
  return await store.transaction(async () => {
    const row = { id: store.ids.next('project'), name, title, organisation_id: organisation, ...born(store) }
    const inserted = await store
      .db<Tables>()
      .insertInto('projects')
      .values(row)
      .onConflict((conflict) => conflict.doNothing())
      .returningAll()
      .executeTakeFirst()
    if (inserted !== undefined) await setProjectMember(store, inserted.id, admin, 'admin')
    return inserted
  })
}

function born(store: Store) {
  const nowMs = store.clock.unixMs()
  return { version: 1, created_at: nowMs, updated_at: nowMs }
}

/** By name or id. */
export async function organisationOf(store: Store, typed: string): Promise<OrganisationRow | undefined> {
  const query = store.db<Tables>().selectFrom('organisations').selectAll()
  return await query.where((is) => is.or([is('id', '=', typed), is('name', '=', typed)])).executeTakeFirst()
}

export async function projectOf(store: Store, typed: string): Promise<ProjectRow | undefined> {
  const query = store.db<Tables>().selectFrom('projects').selectAll()
  return await query.where((is) => is.or([is('id', '=', typed), is('name', '=', typed)])).executeTakeFirst()
}

/** What a person is in a project: by membership, or admin as an owner of its organisation. */
export async function projectRoleOf(
  store: Store,
  project: ProjectRow,
  person: string,
): Promise<ProjectRole | undefined> {
  if ((await organisationRoleOf(store, project.organisation_id, person)) === 'owner') return 'admin'
  const query = store.db<Tables>().selectFrom('project_members').select('role')
  const row = await query
    .where('project_id', '=', project.id)
    .where('person_id', '=', person)
    .executeTakeFirst()
  return row?.role
}

export async function organisationRoleOf(
  store: Store,
  organisation: string,
  person: string,
): Promise<OrganisationRole | undefined> {
  const query = store.db<Tables>().selectFrom('organisation_members').select('role')
  const row = await query
    .where('organisation_id', '=', organisation)
    .where('person_id', '=', person)
    .executeTakeFirst()
  return row?.role
}

/** The organisations that a person belongs to; all of them for who runs the service. */
export async function listOrganisations(
  store: Store,
  person: { id: string; isOperator: boolean },
  page: PageQuery,
): Promise<Page<OrganisationRow>> {
  let query = store.db<Tables>().selectFrom('organisations').selectAll()
  if (!person.isOperator)
    query = query.where('id', 'in', (inner) =>
      inner.selectFrom('organisation_members').select('organisation_id').where('person_id', '=', person.id),
    )
  return await readPage(query, page)
}

/** The projects that a person may see. */
export async function listProjects(
  store: Store,
  person: { id: string; isOperator: boolean; onlyProject?: string },
  { organisation, ...page }: PageQuery & { organisation?: string },
): Promise<Page<ProjectRow>> {
  let query = store.db<Tables>().selectFrom('projects').selectAll()
  if (organisation !== undefined) query = query.where('organisation_id', '=', organisation)
  if (person.onlyProject !== undefined) query = query.where('id', '=', person.onlyProject)
  if (!person.isOperator)
    query = query.where((is) =>
      is.or([
        is('id', 'in', (inner) =>
          inner.selectFrom('project_members').select('project_id').where('person_id', '=', person.id),
        ),
        is('organisation_id', 'in', (inner) =>
          inner
            .selectFrom('organisation_members')
            .select('organisation_id')
            .where('person_id', '=', person.id)
            .where('role', '=', 'owner'),
        ),
      ]),
    )
  return await readPage(query, page)
}

export async function retitle(
  store: Store,
  table: 'organisations' | 'projects',
  id: string,
  title: string,
): Promise<void> {
  await store
    .db<Tables>()
    .updateTable(table)
    .set((is) => ({ title, updated_at: store.clock.unixMs(), version: is('version', '+', 1) }))
    .where('id', '=', id)
    .execute()
}

export async function setOrganisationMember(
  store: Store,
  organisation: string,
  person: string,
  role: OrganisationRole,
): Promise<void> {
  await store
    .db<Tables>()
    .insertInto('organisation_members')
    .values({ organisation_id: organisation, person_id: person, role, since: store.clock.unixMs() })
    .onConflict((conflict) => conflict.columns(['organisation_id', 'person_id']).doUpdateSet({ role }))
    .execute()
}

export async function setProjectMember(
  store: Store,
  project: string,
  person: string,
  role: ProjectRole,
): Promise<void> {
  await store
    .db<Tables>()
    .insertInto('project_members')
    .values({ project_id: project, person_id: person, role, since: store.clock.unixMs() })
    .onConflict((conflict) => conflict.columns(['project_id', 'person_id']).doUpdateSet({ role }))
    .execute()
}

export async function removeProjectMember(store: Store, project: string, person: string): Promise<boolean> {
  const { numDeletedRows } = await store
    .db<Tables>()
    .deleteFrom('project_members')
    .where('project_id', '=', project)
    .where('person_id', '=', person)
    .executeTakeFirstOrThrow()
  return numDeletedRows > 0n
}

/** Out of the organisation and of all of its projects. */
export async function removeOrganisationMember(
  store: Store,
  organisation: string,
  person: string,
): Promise<boolean> {
  return await store.transaction(async () => {
    await store
      .db<Tables>()
      .deleteFrom('project_members')
      .where('person_id', '=', person)
      .where('project_id', 'in', (inner) =>
        inner.selectFrom('projects').select('id').where('organisation_id', '=', organisation),
      )
      .execute()
    const { numDeletedRows } = await store
      .db<Tables>()
      .deleteFrom('organisation_members')
      .where('organisation_id', '=', organisation)
      .where('person_id', '=', person)
      .executeTakeFirstOrThrow()
    return numDeletedRows > 0n
  })
}

/** In a transaction: others that change its members wait until it ends. */
export async function holdOrganisation(store: Store, id: string): Promise<void> {
  await store
    .db<Tables>()
    .updateTable('organisations')
    .set((is) => ({ version: is('version', '+', 1) }))
    .where('id', '=', id)
    .execute()
}

export async function countOwners(store: Store, organisation: string): Promise<number> {
  const query = store
    .db<Tables>()
    .selectFrom('organisation_members')
    .where('organisation_id', '=', organisation)
  const counted = query.where('role', '=', 'owner').select((is) => is.fn.countAll<number>().as('count'))
  return (await counted.executeTakeFirstOrThrow()).count
}

export async function projectMembers(store: Store, project: string): Promise<Member<ProjectRole>[]> {
  return await store
    .db<Tables>()
    .selectFrom('project_members')
    .innerJoin('people', 'people.id', 'project_members.person_id')
    .select(['people.id as person', 'people.email', 'people.name', 'project_members.role', 'since'])
    .where('project_id', '=', project)
    .orderBy('people.email')
    .limit(membersMax)
    .execute()
}

export async function organisationMembers(
  store: Store,
  organisation: string,
): Promise<Member<OrganisationRole>[]> {
  return await store
    .db<Tables>()
    .selectFrom('organisation_members')
    .innerJoin('people', 'people.id', 'organisation_members.person_id')
    .select(['people.id as person', 'people.email', 'people.name', 'organisation_members.role', 'since'])
    .where('organisation_id', '=', organisation)
    .orderBy('people.email')
    .limit(membersMax)
    .execute()
}

/** Of one project or organisation. */
export const membersMax = 1000
