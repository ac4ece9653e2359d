-- List the workflows that were ever published.
SELECT name, version, location, description, input_schema, output_schema, labels FROM workflows ORDER BY name;
