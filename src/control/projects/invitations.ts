import type { OrganisationRole, ProjectRole } from '../../api/control/permissions.ts'
import { Refused } from '../../api/control/problem.ts'
import { newToken, sha256 } from '../service/tokens.ts'
import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'
import { organisationRoleOf, setOrganisationMember, setProjectMember } from './projects.ts'

export const invitationTokenPrefix = 'rwi_'

export interface InvitationRow {
  readonly id: string
  readonly token_sha256: string
  readonly email: string
  readonly organisation_id: string
  readonly organisation_role: OrganisationRole
  readonly project_id: string | null
  readonly project_role: ProjectRole | null
  readonly invited_by: string
  readonly created_at: number
  readonly expires_at: number
  readonly accepted_at: number | null
}

interface Tables {
  invitations: InvitationRow
}

export type NewInvitation = Omit<InvitationRow, 'id' | 'token_sha256' | 'created_at' | 'accepted_at'>

export async function addInvitation(
  store: Store,
  invitation: NewInvitation,
): Promise<{ row: InvitationRow; token: string }> {
  const token = newToken(invitationTokenPrefix)
  const row = await store
    .db<Tables>()
    .insertInto('invitations')
    .values({
      ...invitation,
      email: invitation.email.toLowerCase(),
      id: store.ids.next('invitation'),
      token_sha256: sha256(token),
      created_at: store.clock.unixMs(),
      accepted_at: null,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
  return { row, token }
}

export async function listInvitations(
  store: Store,
  organisation: string,
  page: PageQuery,
): Promise<Page<InvitationRow>> {
  const query = store.db<Tables>().selectFrom('invitations').selectAll()
  return await readPage(query.where('organisation_id', '=', organisation), page)
}

export async function removeInvitation(store: Store, organisation: string, id: string): Promise<boolean> {
  const { numDeletedRows } = await store
    .db<Tables>()
    .deleteFrom('invitations')
    .where('organisation_id', '=', organisation)
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  return numDeletedRows > 0n
}

/** The open invitation with this token for this address. Throws when there is none, or it was used or has expired. */
export async function openInvitation(store: Store, token: string, email: string): Promise<InvitationRow> {
  const query = store.db<Tables>().selectFrom('invitations').selectAll()
  const row = await query.where('token_sha256', '=', sha256(token)).executeTakeFirst()
  if (row === undefined || row.email !== email.toLowerCase())
    throw new Refused('not_found', 'This invitation is not known, or was made out to another address.', {
      fix: 'Use the address that was invited, or ask for another invitation.',
    })
  if (row.accepted_at !== null)
    throw new Refused('conflict', 'This invitation was already used.', { fix: 'Log in instead.' })
  if (row.expires_at <= store.clock.unixMs())
    throw new Refused('expired', 'This invitation has expired.', { fix: 'Ask for another one.' })
  return row
}

/** Those made out to this address that can be accepted still. */
export async function openInvitationsTo(store: Store, email: string): Promise<InvitationRow[]> {
  const query = store.db<Tables>().selectFrom('invitations').selectAll().where('email', '=', email)
  const open = query.where('accepted_at', 'is', null).where('expires_at', '>', store.clock.unixMs())
  return await open.orderBy('id').limit(acceptedMax).execute()
}

/** At one sign-up. */
const acceptedMax = 100

/** In a transaction with what else belongs to it. A role that the person has already is never lowered. */
export async function acceptInvitation(store: Store, row: InvitationRow, person: string): Promise<void> {
  await store
    .db<Tables>()
    .updateTable('invitations')
    .set({ accepted_at: store.clock.unixMs() })
    .where('id', '=', row.id)
    .execute()
  if ((await organisationRoleOf(store, row.organisation_id, person)) !== 'owner')
    await setOrganisationMember(store, row.organisation_id, person, row.organisation_role)
  if (row.project_id !== null && row.project_role !== null)
    await setProjectMember(store, row.project_id, person, row.project_role)
}
