import { Tabs } from '@base-ui/react/tabs'
import { useState } from 'react'
import { listProjectAudit } from '../../../src/api/control/audit.ts'
import { listEvents, listOrganisationMembers, viewProject } from '../../../src/api/control/projects.ts'
import { May } from '../parts/may.tsx'
import { Older } from '../parts/older.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { useProject } from '../project.ts'
import { seldom, useAnswer } from '../service.ts'
import { timeText } from '../text.ts'

const shown = 50

/** What happened in a project by itself, and what people did in it. */
export function History() {
  const project = useProject()
  return (
    <>
      <h1>History</h1>
      <Tabs.Root defaultValue="events">
        <Tabs.List className="tabs">
          <Tabs.Tab value="events">What happened</Tabs.Tab>
          <Tabs.Tab value="audit">Who did what</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="events">
          <Events project={project} />
        </Tabs.Panel>
        <Tabs.Panel value="audit">
          <May permission="audit:view" what="see who did what">
            <Audit project={project} />
          </May>
        </Tabs.Panel>
      </Tabs.Root>
    </>
  )
}

/** A page of a list; the newest is looked at again and again. */
function usePage() {
  const [cursor, go] = useState<string>()
  const query = { limit: shown, ...(cursor !== undefined && { cursor }) }
  return { cursor, go, query, every: cursor === undefined && seldom }
}

function Events({ project }: { project: string }) {
  const { cursor, go, query, every } = usePage()
  const { data, error } = useAnswer(listEvents, { params: { project }, query }, { every })
  return (
    <>
      <Problem error={error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="Nothing yet."
        columns={{
          When: ({ at }) => timeText(at),
          What: ({ kind }) => kind,
          'Of what': ({ subject }) => <code>{subject}</code>,
          Why: ({ message }) => message,
        }}
      />
      <Older cursor={cursor} next={data?.next} onGo={go} />
    </>
  )
}

function Audit({ project }: { project: string }) {
  const { cursor, go, query, every } = usePage()
  const { data, error } = useAnswer(listProjectAudit, { params: { project }, query }, { every })
  const organisation = useAnswer(viewProject, { params: { project } }).data?.organisation_id
  const members = useAnswer(
    listOrganisationMembers,
    { params: { organisation: organisation ?? '' } },
    { when: organisation !== undefined },
  )
  const emails = new Map(members.data?.items.map(({ person, email }) => [person, email]))
  return (
    <>
      <Problem error={error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="Nothing yet."
        columns={{
          When: ({ at }) => timeText(at),
          Who: ({ person }) => (person === null ? 'nobody signed in' : (emails.get(person) ?? person)),
          Did: ({ action }) => action,
          'To what': ({ subject, details }) =>
            typeof details.name === 'string' ? details.name : <code>{subject}</code>,
          From: ({ address }) => address,
        }}
      />
      <Older cursor={cursor} next={data?.next} onGo={go} />
    </>
  )
}
