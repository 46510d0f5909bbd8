import type { FormEvent, ReactNode } from 'react'
import { type ProjectRole, projectRoles } from '../../../src/api/control/permissions.ts'
import {
  createInvitation,
  deleteInvitation,
  listInvitations,
  listProjectMembers,
  removeProjectMember,
  setProjectMember,
  viewProject,
} from '../../../src/api/control/projects.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Copy } from '../parts/copy.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { timeText } from '../text.ts'

const invitationsShown = 200

interface Membership {
  readonly person: string
  readonly role: ProjectRole
}

/** Who works in a project, as what, and who is invited. */
export function Members() {
  const project = useProject()
  const view = useAnswer(viewProject, { params: { project } })
  const { data, error } = useAnswer(listProjectMembers, { params: { project } }, { every: seldom })
  const set = useDeed(
    ({ person, role }: Membership) =>
      service.call(setProjectMember, { params: { project, person }, body: { role } }),
    ['members.'],
  )
  const remove = useDeed(
    (person: string) => service.call(removeProjectMember, { params: { project, person } }),
    ['members.'],
  )
  return (
    <>
      <h1>Members</h1>
      <Problem error={error ?? set.error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ person }) => person}
        empty="Nobody but the owners of the organisation."
        columns={{
          Address: ({ email }) => email,
          Name: ({ name }) => name,
          Role: ({ person, email, role }) => (
            <select
              aria-label={`Role of ${email}`}
              value={role}
              disabled={set.isPending}
              onChange={({ target }) => set.mutate({ person, role: target.value as ProjectRole })}
            >
              <Roles />
            </select>
          ),
          Since: ({ since }) => <Ago at={since} />,
          '': ({ person, email }) => (
            <Confirm
              verb="Take out"
              title={`Take ${email} out of ${project}?`}
              isBusy={remove.isPending}
              onConfirm={() => remove.mutate(person)}
            >
              What they made stays. They can be added again.
            </Confirm>
          ),
        }}
      />
      <h2>Somebody of the organisation</h2>
      <WhomForm verb="Add" isBusy={set.isPending} onSend={set.mutate} />
      {view.data && <Invitations project={view.data} />}
    </>
  )
}

interface InvitationsProps {
  readonly project: { readonly id: string; readonly name: string; readonly organisation_id: string }
}

/** Owners of the organisation invite; to others the service says so. */
function Invitations({ project }: InvitationsProps) {
  const organisation = project.organisation_id
  const query = { limit: invitationsShown }
  const { data, error } = useAnswer(listInvitations, { params: { organisation }, query }, { every: seldom })
  const invite = useDeed(
    ({ person, role }: Membership) =>
      service.call(createInvitation, {
        params: { organisation },
        body: { email: person, project: project.id, project_role: role },
      }),
    ['invitations.'],
  )
  const withdraw = useDeed(
    (invitation: string) => service.call(deleteInvitation, { params: { organisation, invitation } }),
    ['invitations.'],
  )
  return (
    <>
      <h2>Somebody new</h2>
      <WhomForm verb="Invite" isBusy={invite.isPending} onSend={invite.mutate} />
      <Problem error={error ?? invite.error ?? withdraw.error} />
      {invite.data && (
        <div className="made" role="status">
          <p>
            The invitation of <strong>{invite.data.email}</strong> is shown here now and never again. Nobody
            sends it but you: who has it makes an account of that address with
          </p>
          <Copy text={signUpLine(invite.data)} label="the invitation" />
          <p className="quiet">Who has an account of this address joins by: ropeway org accept TOKEN</p>
        </div>
      )}
      <Table
        rows={data?.items.filter(({ accepted_at }) => accepted_at === null)}
        keyOf={({ id }) => id}
        empty="Nobody is invited."
        columns={{
          Invited: ({ email }) => email,
          'To project': ({ project: to }) => (to === project.id ? project.name : to),
          Role: ({ project_role, role }) => project_role ?? role,
          Until: ({ expires_at }) => timeText(expires_at),
          '': ({ id }) => (
            <button type="button" disabled={withdraw.isPending} onClick={() => withdraw.mutate(id)}>
              Withdraw
            </button>
          ),
        }}
      />
    </>
  )
}

function signUpLine({ email, token }: { email: string; token: string }): string {
  return `ropeway signup ${location.origin} --email ${email} --invitation ${token}`
}

interface WhomFormProps {
  readonly verb: string
  readonly isBusy: boolean
  onSend(whom: Membership): void
}

function WhomForm({ verb, isBusy, onSend }: WhomFormProps): ReactNode {
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    onSend({ person: String(given.get('address')).trim(), role: given.get('role') as ProjectRole })
  }
  return (
    <form onSubmit={send} className="row">
      <label>
        Address to {verb.toLowerCase()}
        <input name="address" type="email" required maxLength={200} />
      </label>
      <label>
        As
        <select name="role" defaultValue="develop">
          <Roles />
        </select>
      </label>
      <button type="submit" className="main" disabled={isBusy}>
        {verb}
      </button>
    </form>
  )
}

function Roles() {
  return projectRoles.map((role) => <option key={role}>{role}</option>)
}
