/** Whose account an identity at the OpenID provider is. */
import { Refused } from '../../api/control/problem.ts'
import { acceptInvitation, openInvitationsTo } from '../projects/invitations.ts'
import type { Store } from '../store/store.ts'
import type { Identity, OidcSettings } from './oidc-provider.ts'
import { addPerson, changePerson, type PersonRow, personByEmail, personBySubject } from './people.ts'

type Audit = (action: string, subject: string, details?: Record<string, unknown>) => Promise<void>

/** The person, made or linked where that is allowed; in a transaction with the session that follows. */
export async function personOfIdentity(
  store: Store,
  identity: Identity,
  settings: OidcSettings,
  audit: Audit,
): Promise<PersonRow> {
  const known = await personBySubject(store, identity.subject)
  if (known !== undefined) return usable(known)
  const email = identity.verifiedEmail
  if (email === undefined)
    throw new Refused('forbidden', `${settings.name} vouches for no mail address of yours.`, {
      fix: 'Confirm your address there, then log in again.',
    })
  const namesake = await personByEmail(store, email)
  return namesake === undefined
    ? await newcomer(store, identity, email, settings, audit)
    : await linkedByMail(store, identity, namesake, settings, audit)
}

function usable(person: PersonRow): PersonRow {
  if (person.disabled_at === null) return person
  throw new Refused('forbidden', 'Your account here is disabled.', { fix: 'Ask whoever runs this service.' })
}

async function linkedByMail(
  store: Store,
  { subject }: Identity,
  person: PersonRow,
  { linkByMail, name }: OidcSettings,
  audit: Audit,
): Promise<PersonRow> {
  usable(person)
  // A second factor of ours would be passed by: its owner has to be there once.
  if (!linkByMail || person.totp_confirmed === 1 || person.oidc_subject !== null)
    throw new Refused('conflict', `There is an account with your address, which ${name} does not open yet.`, {
      fix: 'Log in with your password once and run: ropeway login --link',
    })
  const linked = await changePerson(store, person, { oidc_subject: subject })
  if (linked === undefined)
    throw new Refused('conflict', 'Your account was changed at the same moment.', { fix: 'Log in again.' })
  await audit('person.oidc-link', person.id, { by: 'mail' })
  return linked
}

/** What was made out to the address is accepted: the provider has shown whose it is. */
async function newcomer(
  store: Store,
  { subject, name }: Identity,
  email: string,
  { signUp }: OidcSettings,
  audit: Audit,
): Promise<PersonRow> {
  const invitations = await openInvitationsTo(store, email)
  if (invitations.length === 0 && signUp === 'invited')
    throw new Refused('forbidden', `There is no account with the address ${email}, and no invitation.`, {
      fix: 'Ask an owner of an organisation for an invitation (ropeway org invite).',
    })
  const person = await addPerson(store, { email, name, oidcSubject: subject })
  if (person === undefined)
    throw new Refused('conflict', 'Your account was made at the same moment.', { fix: 'Log in again.' })
  for (const invitation of invitations) await acceptInvitation(store, invitation, person.id)
  await audit('person.sign-up', person.id, { by: 'oidc' })
  return person
}
