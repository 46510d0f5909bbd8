import { createOwnKey, listOwnKeys, revokeOwnKey } from '../../../src/api/control/keys.ts'
import { endSession, listSessions, whoAmI } from '../../../src/api/control/people.ts'
import { Facts } from '../parts/facts.tsx'
import { KeyList, NewKey } from '../parts/key-list.tsx'
import { NewProject } from '../parts/new-project.tsx'
import { PasswordForm } from '../parts/password.tsx'
import { Problem } from '../parts/problem.tsx'
import { SecondFactor } from '../parts/second-factor.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const keysShown = 200

/** Who you are and how you prove it, where you belong, and where you are signed in. */
export function Account() {
  const who = useAnswer(whoAmI, {})
  const sessions = useAnswer(listSessions, {})
  const keys = useAnswer(listOwnKeys, { query: { limit: keysShown } }, { every: seldom })
  const end = useDeed((session: string) => service.call(endSession, { params: { session } }), ['sessions.'])
  const { person, organisations, projects } = who.data ?? {}
  return (
    <>
      <h1>Account</h1>
      <Problem error={who.error ?? sessions.error ?? keys.error ?? end.error} />
      {person && (
        <Facts
          of={{
            Address: person.email,
            Name: person.name,
            Organisations: organisations?.map(({ name, role }) => `${name} (${role})`).join(', '),
            Projects: projects?.map(({ name, role }) => `${name} (${role})`).join(', '),
          }}
        />
      )}
      <NewProject />
      <h2>Second factor</h2>
      {person && <SecondFactor isOn={person.second_factor} />}
      <h2>Password</h2>
      <PasswordForm />
      <h2>Keys that are you</h2>
      <p className="quiet">
        They work in all of your projects, and may never do more than you. A program that needs one project
        alone takes a key of that project instead.
      </p>
      <NewKey changes="own-keys." make={(body) => service.call(createOwnKey, { body })} />
      <KeyList
        keys={keys.data?.items}
        empty="You have none."
        changes="own-keys."
        revoke={(key) => service.call(revokeOwnKey, { params: { key } })}
      />
      {keys.data?.next && (
        <p className="quiet">Only {keysShown} are shown; ropeway key list --own has all.</p>
      )}
      <h2>Where you are signed in</h2>
      <Table
        rows={sessions.data?.items}
        keyOf={({ id }) => id}
        empty="Nowhere: a key is what asks."
        columns={{
          Program: ({ client, is_this }) => (is_this ? `${client} (this one)` : client),
          'Signed in': ({ created_at }) => <Ago at={created_at} />,
          'Last used': ({ last_used_at }) => <Ago at={last_used_at} />,
          '': ({ id, is_this }) =>
            !is_this && (
              <button type="button" disabled={end.isPending} onClick={() => end.mutate(id)}>
                End
              </button>
            ),
        }}
      />
    </>
  )
}
