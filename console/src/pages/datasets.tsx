import { Link, useNavigate } from '@tanstack/react-router'
import type { FormEvent } from 'react'
import { linkDataset, listDatasets } from '../../../src/api/control/datasets.ts'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { namePattern, UploadPlace } from '../parts/upload.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const datasetsShown = 200

/** All data of a project, and the places where more comes in. */
export function Datasets() {
  const project = useProject()
  const navigate = useNavigate()
  const query = { limit: datasetsShown }
  const { data, error } = useAnswer(listDatasets, { params: { project }, query }, { every: seldom })
  const show = (dataset: string) =>
    void navigate({ to: '/projects/$project/data/$dataset', params: { project, dataset } })
  return (
    <>
      <h1>Data</h1>
      <UploadPlace project={project} known={data?.items.map(({ name }) => name) ?? []} onDone={show} />
      <details>
        <summary>Link a bucket or a folder instead: nothing is copied</summary>
        <LinkForm project={project} onDone={show} />
      </details>
      <h2>Datasets</h2>
      <Problem error={error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No data yet. Drop a file above; jobs then name it dataset:NAME."
        columns={{
          Dataset: ({ name }) => (
            <Link to="/projects/$project/data/$dataset" params={{ project, dataset: name }}>
              {name}
            </Link>
          ),
          'Newest version': ({ latest }) => latest,
          Changed: ({ updated_at }) => <Ago at={updated_at} />,
          '': ({ description }) => <span className="quiet">{description}</span>,
        }}
      />
      {data?.next && (
        <p className="quiet">Only {datasetsShown} are shown; ropeway dataset list has them all.</p>
      )}
    </>
  )
}

interface LinkFormProps {
  readonly project: string
  onDone(dataset: string): void
}

function LinkForm({ project, onDone }: LinkFormProps) {
  const link = useDeed(
    ({ dataset, ...link }: { dataset: string; url: string; credential?: string; endpoint?: string }) =>
      service.call(linkDataset, { params: { project, dataset }, body: { link } }),
    ['datasets.'],
    ({ name }) => onDone(name),
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const text = (name: string) => String(given.get(name)).trim()
    link.mutate({
      ...{ dataset: text('dataset'), url: text('url') },
      ...(text('credential') !== '' && { credential: text('credential') }),
      ...(text('endpoint') !== '' && { endpoint: text('endpoint') }),
    })
  }
  return (
    <form onSubmit={send}>
      <p className="quiet">
        <code>s3://BUCKET/PREFIX</code>, <code>gs://BUCKET/PREFIX</code>, <code>az://CONTAINER/PREFIX</code>,{' '}
        <code>hf://datasets/ORG/NAME</code>, or <code>file:///FOLDER</code> of the machine of the service,
        where <code>ropeway up --link-folder</code> allows it. A credential is stored under{' '}
        <Link to="/projects/$project/credentials" params={{ project }}>
          Credentials
        </Link>
        .
      </p>
      <div className="row">
        <label>
          Name of the dataset
          <input name="dataset" required pattern={namePattern} />
        </label>
        <label className="long">
          Where it lies
          <input name="url" required maxLength={2000} placeholder="s3://bucket/prefix" />
        </label>
        <label>
          Credential (if it needs one)
          <input name="credential" maxLength={63} />
        </label>
        <label>
          Endpoint (if not Amazon's)
          <input name="endpoint" type="url" maxLength={2000} />
        </label>
        <button type="submit" className="main" disabled={link.isPending}>
          {link.isPending ? 'Looking ...' : 'Link'}
        </button>
      </div>
      <Problem error={link.error} />
    </form>
  )
}
