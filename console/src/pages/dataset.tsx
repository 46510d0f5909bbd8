import { Link, useNavigate, useParams, useSearch } from '@tanstack/react-router'
import { useState } from 'react'
import {
  datasetStatistics,
  deleteDataset,
  listFiles,
  listVersions,
  readFile,
  refreshDataset,
  viewDataset,
} from '../../../src/api/control/datasets.ts'
import { apiRoot } from '../../../src/api/control/endpoint.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Copy } from '../parts/copy.tsx'
import { Facts } from '../parts/facts.tsx'
import { Preview } from '../parts/preview.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { UploadPlace } from '../parts/upload.tsx'
import { Waiting } from '../parts/waiting.tsx'
import { useProject } from '../project.ts'
import { service, useAnswer, useDeed } from '../service.ts'
import { bytesText, numberText } from '../text.ts'

const filesShown = 200
const versionsShown = 100

/** A dataset: what is in its newest version, or in the one that the address asks for. */
export function DatasetPage() {
  const project = useProject()
  const name = useParams({ strict: false, select: ({ dataset }) => dataset! })
  const asked = useSearch({ strict: false, select: (search) => (search as { version?: number }).version })
  const reference = asked === undefined ? name : `${name}@${asked}`
  const { data, error } = useAnswer(viewDataset, { params: { project, dataset: reference } })
  if (data === undefined) return <Waiting error={error} />
  const { version } = data
  return (
    <>
      <div className="heading">
        <h1>{name}</h1>
        <span className="quiet">
          version {version.number}
          {version.number < data.latest && ` of ${data.latest}`}
        </span>
        <span className="space" />
        <Deeds project={project} dataset={name} isLinked={version.link !== null} />
      </div>
      <p>{data.description}</p>
      <Facts
        of={{
          Files: version.files,
          Size: bytesText(version.bytes),
          Made: <Ago at={version.created_at} />,
          'What was new': version.message,
          'Linked to': version.link?.url,
        }}
      />
      <Content
        key={version.id}
        project={project}
        dataset={name}
        version={version.number}
        isNewest={version.number === data.latest}
      />
      <h2>Versions</h2>
      <Versions project={project} dataset={name} shown={version.number} />
      <h2>Upload a new version</h2>
      <UploadPlace project={project} dataset={name} onDone={() => undefined} />
    </>
  )
}

interface OfDataset {
  readonly project: string
  readonly dataset: string
}

function Deeds({ project, dataset, isLinked }: OfDataset & { isLinked: boolean }) {
  const navigate = useNavigate()
  const params = { project, dataset }
  const refresh = useDeed(() => service.call(refreshDataset, { params }), ['datasets.'])
  const remove = useDeed(
    () => service.call(deleteDataset, { params }),
    ['datasets.list'],
    () => void navigate({ to: '/projects/$project/data', params: { project } }),
  )
  return (
    <>
      <Problem error={refresh.error ?? remove.error} />
      {isLinked && (
        <button type="button" disabled={refresh.isPending} onClick={() => refresh.mutate(undefined)}>
          Look again
        </button>
      )}
      <Confirm
        verb="Delete"
        title={`Delete the dataset ${dataset}?`}
        isBusy={remove.isPending}
        onConfirm={() => remove.mutate(undefined)}
      >
        All its versions go. For 24 hours <code>ropeway dataset restore</code> takes that back.
      </Confirm>
    </>
  )
}

function Content({
  project,
  dataset,
  version,
  isNewest,
}: OfDataset & { version: number; isNewest: boolean }) {
  const reference = `${dataset}@${version}`
  const params = { project, dataset: reference }
  const [chosen, choose] = useState<string>()
  const files = useAnswer(listFiles, { params, query: { limit: filesShown } })
  const paths = files.data?.items.map(({ path }) => path) ?? []
  const path =
    chosen ?? paths.find((one) => isTable(one)) ?? paths.find((one) => records.test(one)) ?? paths[0]
  return (
    <>
      {path !== undefined && (
        <p>
          <span className="quiet">In a job file: </span>
          <Copy
            label="line for a job file"
            text={jobLine(isNewest ? dataset : reference, path, paths.length)}
          />
        </p>
      )}
      <h2>Files</h2>
      <Problem error={files.error} />
      <Table
        rows={files.data?.items}
        keyOf={(file) => file.path}
        empty="This version holds no file."
        columns={{
          Path: (file) =>
            file.path === path ? (
              <strong>{file.path}</strong>
            ) : (
              <button type="button" className="plain" onClick={() => choose(file.path)}>
                {file.path}
              </button>
            ),
          Size: ({ bytes }) => bytesText(bytes),
          '': (file) => (
            <a href={contentAddress(project, reference, file.path)} download={file.path.split('/').at(-1)}>
              Download
            </a>
          ),
        }}
      />
      {files.data?.next && (
        <p className="quiet">Only the first {filesShown} are shown; ropeway dataset files has them all.</p>
      )}
      {path !== undefined && <Preview project={project} dataset={reference} path={path} />}
      <Statistics project={project} dataset={reference} />
    </>
  )
}

const records = /\.(jsonl|ndjson|json|csv|tsv|txt|md)(\.gz)?$/i
const plainText = /\.(txt|md)(\.gz)?$/i
const isTable = (path: string) => records.test(path) && !plainText.test(path)

/** How the field `data` of a job's file names it. */
function jobLine(reference: string, path: string, files: number): string {
  const place = `dataset:${reference}/${path}`
  if (plainText.test(path)) return `data: {text: [${place}], validation: 0.05}`
  if (records.test(path)) return `data: {train: ${place}, validation: 0.05}`
  return files === 1 ? place : `dataset:${reference}`
}

function contentAddress(project: string, dataset: string, path: string): string {
  const filled = readFile.path
    .replace(':project', encodeURIComponent(project))
    .replace(':dataset', encodeURIComponent(dataset))
  return `${apiRoot}${filled}?${new URLSearchParams({ path })}`
}

function Statistics(params: OfDataset) {
  const { data, error } = useAnswer(datasetStatistics, { params })
  if (data === undefined) return <Problem error={error} />
  if (data.records === 0 && data.problems.length === 0) return null
  const { whole, problems, fields } = data
  return (
    <>
      <h2>Statistics</h2>
      <p>
        {data.records.toLocaleString()} {data.records === 1 ? 'record' : 'records'} in {bytesText(data.bytes)}
        {!whole && ', which is the beginning of it'}.
      </p>
      {problems.map((problem) => (
        <p key={problem} className="problem">
          {problem}
        </p>
      ))}
      {fields.length > 0 && (
        <Table
          rows={fields}
          keyOf={({ name }) => name}
          empty=""
          columns={{
            Field: ({ name }) => <code>{name}</code>,
            'In records': ({ records }) => records.toLocaleString(),
            Types: ({ types }) => Object.keys(types).join(', '),
            'Mean length': ({ length_mean }) => length_mean !== null && numberText(length_mean),
            Longest: ({ length_max }) => length_max?.toLocaleString(),
          }}
        />
      )}
    </>
  )
}

function Versions({ project, dataset, shown }: OfDataset & { shown: number }) {
  const query = { limit: versionsShown }
  const { data, error } = useAnswer(listVersions, { params: { project, dataset }, query })
  if (error) return <Problem error={error} />
  return (
    <Table
      rows={data?.items}
      keyOf={({ id }) => id}
      empty="None."
      columns={{
        Version: ({ number }) =>
          number === shown ? (
            <strong>{number}</strong>
          ) : (
            <Link
              to="/projects/$project/data/$dataset"
              params={{ project, dataset }}
              search={{ version: number }}
            >
              {number}
            </Link>
          ),
        Files: ({ files }) => files,
        Size: ({ bytes }) => bytesText(bytes),
        Made: ({ created_at }) => <Ago at={created_at} />,
        'What was new': ({ message }) => message,
      }}
    />
  )
}
