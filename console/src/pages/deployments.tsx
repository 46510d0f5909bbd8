import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import { type FormEvent, useState } from 'react'
import {
  createDeployment,
  type DeploymentView,
  listDeployments,
} from '../../../src/api/control/deployments.ts'
import { listCheckpoints, listModels } from '../../../src/api/control/models.ts'
import { Problem } from '../parts/problem.tsx'
import { State } from '../parts/state.tsx'
import { Table } from '../parts/table.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

export function Deployments() {
  const project = useProject()
  return (
    <>
      <h1>Deployments</h1>
      <DeploymentTable project={project} />
      <h2>Another one</h2>
      <NewDeployment project={project} />
    </>
  )
}

export function DeploymentTable({ project }: { project: string }) {
  const { data, error } = useAnswer(
    listDeployments,
    { params: { project }, query: { limit: 200 } },
    { every: seldom },
  )
  if (error) return <Problem error={error} />
  return (
    <Table
      rows={data?.items}
      keyOf={({ id }) => id}
      empty="Nothing is deployed yet."
      columns={{
        Deployment: ({ name }) => (
          <Link to="/projects/$project/deployments/$deployment" params={{ project, deployment: name }}>
            {name}
          </Link>
        ),
        State: ({ state }) => <State name={state} />,
        Serves: servesText,
        Replicas: ({ replicas }) => replicas.filter(({ phase }) => phase === 'ready').length,
        Running: ({ replicas }) => replicas.reduce((sum, { running = 0 }) => sum + running, 0),
        Waiting: ({ replicas }) => replicas.reduce((sum, { waiting = 0 }) => sum + waiting, 0),
        'Who may ask': (it) => (it.public ? 'everybody' : 'keys of the project'),
      }}
    />
  )
}

export function servesText({ serving, versions }: DeploymentView): string {
  const version = versions.find(({ id }) => id === serving)
  if (version === undefined) return ''
  return `${version.made_of[version.model] ?? version.model} (${version.id})`
}

function NewDeployment({ project }: { project: string }) {
  const navigate = useNavigate()
  const wanted = useSearch({ strict: false, select: (search) => (search as { model?: string }).model })
  const [isPublic, setPublic] = useState(false)
  const create = useDeed(
    (body: { name: string; model: string }) =>
      service.call(createDeployment, {
        params: { project },
        body: { name: body.name, public: isPublic, version: { model: body.model } },
      }),
    ['deployments.'],
    ({ name }) =>
      void navigate({
        to: '/projects/$project/deployments/$deployment',
        params: { project, deployment: name },
      }),
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    create.mutate({ name: String(given.get('name')), model: String(given.get('model')) })
  }
  return (
    <form onSubmit={send} className="row">
      <label>
        Name
        <input name="name" required pattern="[a-z0-9]([a-z0-9._\-]{0,61}[a-z0-9])?" />
      </label>
      <Sources project={project} wanted={wanted} />
      <label className="check">
        <input type="checkbox" checked={isPublic} onChange={({ target }) => setPublic(target.checked)} />
        Everybody may ask, without a key
      </label>
      <button type="submit" className="main" disabled={create.isPending}>
        Deploy
      </button>
      <Problem error={create.error} />
    </form>
  )
}

/** What can be deployed: models by name, and the newest checkpoints. */
function Sources({ project, wanted }: { project: string; wanted: string | undefined }) {
  const models = useAnswer(listModels, { params: { project }, query: { limit: 200 } })
  const checkpoints = useAnswer(listCheckpoints, { params: { project }, query: { limit: 50 } })
  if (models.data === undefined || checkpoints.data === undefined) return null
  // A version of a model, or what is older than those listed.
  const isListed =
    models.data.items.some(({ name }) => name === wanted) ||
    checkpoints.data.items.some(({ id }) => id === wanted)
  return (
    <label>
      Model or checkpoint
      <select name="model" required defaultValue={wanted}>
        {wanted !== undefined && !isListed && <option value={wanted}>{wanted}</option>}
        <optgroup label="Models">
          {models.data.items.map(({ id, name, latest }) => (
            <option key={id} value={name}>
              {name} (newest: {latest})
            </option>
          ))}
        </optgroup>
        <optgroup label="Checkpoints">
          {checkpoints.data.items.map(({ id, name }) => (
            <option key={id} value={id}>
              {name}
            </option>
          ))}
        </optgroup>
      </select>
    </label>
  )
}
