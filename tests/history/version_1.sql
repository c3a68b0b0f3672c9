PRAGMA application_id = 1279610191 ;
BEGIN TRANSACTION;
CREATE TABLE candidate (
	id INTEGER NOT NULL, 
	parent INTEGER, 
	generation INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	failure_kind VARCHAR, 
	failure_text VARCHAR, 
	hash VARCHAR NOT NULL, 
	spec VARCHAR NOT NULL, 
	mutations JSON NOT NULL, 
	epochs INTEGER NOT NULL, 
	images INTEGER NOT NULL, 
	cumulative_epochs INTEGER NOT NULL, 
	cumulative_images INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(parent) REFERENCES candidate (id)
);
INSERT INTO "candidate" VALUES(0,NULL,0,'evaluated',NULL,NULL,'fd6005ba87be44d366ee124dfc50ad5a','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 4, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[]',3,300,3,300);
INSERT INTO "candidate" VALUES(1,NULL,0,'evaluated',NULL,NULL,'c5ac4f1267f06120da67b83d54a59966','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 5, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[]',3,300,3,300);
INSERT INTO "candidate" VALUES(2,0,1,'evaluated',NULL,NULL,'b3405deff9dca421033457c98d84be49','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 8, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[{"kind": "widen", "node": "n1", "factor": 2.0, "init": "he"}]',5,500,8,800);
INSERT INTO "candidate" VALUES(3,0,1,'failed','exception','out of memory','2fcba04e1c3790c43e21215117bb8ef0','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 6, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[{"kind": "widen", "node": "n1", "factor": 2.0, "init": "he"}]',1,100,4,400);
INSERT INTO "candidate" VALUES(4,2,2,'running',NULL,NULL,'7e45fc09d87b26933541c33517764e3c','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 7, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[{"kind": "widen", "node": "n1", "factor": 2.0, "init": "he"}]',0,0,0,0);
INSERT INTO "candidate" VALUES(5,2,2,'accepted',NULL,NULL,'2fe6ac8ade58ac3e833f55e2e2d72651','{"format": "lemonade-graph", "version": 1, "nodes": [{"id": "n0", "op": "input", "args": {"shape": [3, 8, 8]}, "inputs": []}, {"id": "n1", "op": "conv2d", "args": {"out_channels": 9, "kernel_size": [3, 3], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": false}, "inputs": ["n0"]}, {"id": "n2", "op": "batch_norm2d", "args": {"eps": 1e-05, "momentum": 0.1}, "inputs": ["n1"]}, {"id": "n3", "op": "activation", "args": {"function": "relu"}, "inputs": ["n2"]}, {"id": "n4", "op": "global_pool2d", "args": {"mode": "avg"}, "inputs": ["n3"]}, {"id": "n5", "op": "linear", "args": {"out_features": 10, "bias": true}, "inputs": ["n4"]}, {"id": "n6", "op": "output", "args": {}, "inputs": ["n5"]}]}','[{"kind": "widen", "node": "n1", "factor": 2.0, "init": "he"}]',0,0,0,0);
CREATE TABLE front_member (
	generation INTEGER NOT NULL, 
	candidate INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	PRIMARY KEY (generation, candidate), 
	FOREIGN KEY(generation) REFERENCES generation ("index"), 
	FOREIGN KEY(candidate) REFERENCES candidate (id)
);
INSERT INTO "front_member" VALUES(0,0,0);
INSERT INTO "front_member" VALUES(1,2,0);
INSERT INTO "front_member" VALUES(1,0,1);
CREATE TABLE generation (
	"index" INTEGER NOT NULL, 
	hypervolume DOUBLE NOT NULL, 
	proposed INTEGER NOT NULL, 
	accepted INTEGER NOT NULL, 
	evaluated INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	total_epochs INTEGER NOT NULL, 
	PRIMARY KEY ("index")
);
INSERT INTO "generation" VALUES(0,0.3,8,2,2,0,12);
INSERT INTO "generation" VALUES(1,0.4,8,2,1,1,12);
CREATE TABLE generation_phase (
	generation INTEGER NOT NULL, 
	phase VARCHAR NOT NULL, 
	seconds DOUBLE NOT NULL, 
	PRIMARY KEY (generation, phase), 
	FOREIGN KEY(generation) REFERENCES generation ("index")
);
INSERT INTO "generation_phase" VALUES(0,'fit',1.5);
INSERT INTO "generation_phase" VALUES(0,'other',0.1);
INSERT INTO "generation_phase" VALUES(1,'fit',1.5);
INSERT INTO "generation_phase" VALUES(1,'other',0.1);
CREATE TABLE objective (
	position INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	unit VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	PRIMARY KEY (position), 
	UNIQUE ("key")
);
INSERT INTO "objective" VALUES(0,'error','error','share','trained');
INSERT INTO "objective" VALUES(1,'params','params','parameters','spec');
INSERT INTO "objective" VALUES(2,'latency','latency','ms','network');
CREATE TABLE phase (
	candidate INTEGER NOT NULL, 
	phase VARCHAR NOT NULL, 
	seconds DOUBLE NOT NULL, 
	PRIMARY KEY (candidate, phase), 
	FOREIGN KEY(candidate) REFERENCES candidate (id)
);
INSERT INTO "phase" VALUES(0,'fit',0.5);
INSERT INTO "phase" VALUES(0,'validate',0.1);
INSERT INTO "phase" VALUES(1,'fit',1.5);
INSERT INTO "phase" VALUES(1,'validate',0.1);
INSERT INTO "phase" VALUES(2,'fit',2.5);
INSERT INTO "phase" VALUES(2,'validate',0.1);
INSERT INTO "phase" VALUES(3,'inherit',0.25);
INSERT INTO "phase" VALUES(3,'fit',1.25);
CREATE TABLE run (
	id INTEGER NOT NULL, 
	schema_version INTEGER NOT NULL, 
	created VARCHAR NOT NULL, 
	config JSON NOT NULL, 
	bounds JSON NOT NULL, 
	tasks JSON NOT NULL, 
	status VARCHAR NOT NULL, 
	stop_reason VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "run" VALUES(1,1,'2026-11-24T22:28:10.776542+00:00','{"seed": 1, "limits": {"params": 2000000.0}, "nested": [1, null, "\u00fc"]}','{"error": [0.0, 0.9], "params": [10.0, 1000000.0], "latency": [0.01, 10.0]}','[""]','running','');
CREATE TABLE task_result (
	candidate INTEGER NOT NULL, 
	task VARCHAR NOT NULL, 
	start_error DOUBLE, 
	test_error DOUBLE, 
	metrics JSON NOT NULL, 
	epochs INTEGER NOT NULL, 
	images INTEGER NOT NULL, 
	teacher_images INTEGER NOT NULL, 
	weights VARCHAR, 
	sha256 VARCHAR, 
	PRIMARY KEY (candidate, task), 
	FOREIGN KEY(candidate) REFERENCES candidate (id)
);
INSERT INTO "task_result" VALUES(0,'',NULL,NULL,'{"accuracy": 0.5, "loss": 0.16666666666666666}',3,300,0,'weights/000000-0.safetensors','340fcab81a26013401531594c517a3c81c95c1b646e57a3488f96d868c5534de');
INSERT INTO "task_result" VALUES(1,'',NULL,NULL,'{"accuracy": 0.4, "loss": 0.19999999999999998}',3,300,0,'weights/000001-0.safetensors','9c7af0e31e4956bf57f29e166a5b5ec57fc6e164806a5084fa156e089c4d405e');
INSERT INTO "task_result" VALUES(2,'',0.5,0.3,'{"accuracy": 0.75, "loss": 0.08333333333333333}',5,500,0,'weights/000002-0.safetensors','460ef896566ef36b804c0ec696053a8ed498b8e04a30a61dc23c89f1881e91ec');
INSERT INTO "task_result" VALUES(3,'',0.5,NULL,'{}',1,100,0,NULL,NULL);
CREATE TABLE value (
	candidate INTEGER NOT NULL, 
	objective VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	spread DOUBLE, 
	PRIMARY KEY (candidate, objective), 
	FOREIGN KEY(candidate) REFERENCES candidate (id), 
	FOREIGN KEY(objective) REFERENCES objective ("key")
);
INSERT INTO "value" VALUES(0,'params',166.0,NULL);
INSERT INTO "value" VALUES(1,'params',205.0,NULL);
INSERT INTO "value" VALUES(0,'error',0.5,NULL);
INSERT INTO "value" VALUES(0,'latency',0.1,0.02);
INSERT INTO "value" VALUES(1,'error',0.6,NULL);
INSERT INTO "value" VALUES(1,'latency',1.1,0.02);
INSERT INTO "value" VALUES(2,'params',322.0,NULL);
INSERT INTO "value" VALUES(3,'params',244.0,NULL);
INSERT INTO "value" VALUES(2,'error',0.25,NULL);
INSERT INTO "value" VALUES(2,'latency',2.1,0.02);
INSERT INTO "value" VALUES(4,'params',283.0,NULL);
INSERT INTO "value" VALUES(5,'params',361.0,NULL);
COMMIT;
