import { endSession, listSessions, whoAmI } from '../../../src/api/control/people.ts'
import { Facts } from '../parts/facts.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { service, useAnswer, useDeed } from '../service.ts'

/** Who you are, where you belong, and where you are signed in. */
export function Account() {
  const who = useAnswer(whoAmI, {})
  const sessions = useAnswer(listSessions, {})
  const end = useDeed((session: string) => service.call(endSession, { params: { session } }), ['sessions.'])
  const { person, organisations, projects } = who.data ?? {}
  return (
    <>
      <h1>Account</h1>
      <Problem error={who.error ?? sessions.error ?? end.error} />
      {person && (
        <Facts
          of={{
            Address: person.email,
            Name: person.name,
            'Second factor': person.second_factor ? 'on' : 'off (ropeway second-factor on)',
            Organisations: organisations?.map(({ name, role }) => `${name} (${role})`).join(', '),
            Projects: projects?.map(({ name, role }) => `${name} (${role})`).join(', '),
          }}
        />
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
